"""The table of docs/results.md anew: `python scripts/results.py [--only NAME ...] [--photos FOLDER]`."""

from hillstart.doorway import results

if __name__ == "__main__":
    results()
