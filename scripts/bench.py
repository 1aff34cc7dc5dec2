"""Measure the speed: `python scripts/bench.py [--device cpu|cuda] [--only SECTION ...] [--json FILE] [--quick]`."""

from hillstart.system.console import command

if __name__ == "__main__":
    with command():
        from benchmarks.command import main

        main()
