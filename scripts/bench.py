"""How fast, on this machine: `python scripts/bench.py [--device cpu|cuda] [--json FILE] [--quick]`."""

from hillstart.bench import main

if __name__ == "__main__":
    main()
