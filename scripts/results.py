"""The table of docs/results.md anew: `python scripts/results.py [--only NAME ...] [--photos FOLDER]`."""

from hillstart.bench.results import main

if __name__ == "__main__":
    main()
