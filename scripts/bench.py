"""How fast, here: `python scripts/bench.py [--device cpu|cuda] [--only SECTION ...] [--json FILE] [--quick]`."""

from hillstart.bench.command import main

if __name__ == "__main__":
    main()
