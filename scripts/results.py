"""Measure the table of docs/results.md again: `python scripts/results.py [--only NAME ...] [--photos FOLDER]`."""

from hillstart.system.console import command

if __name__ == "__main__":
    with command():
        from benchmarks.results import main

        main()
