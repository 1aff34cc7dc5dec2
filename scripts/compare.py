"""Are the starts of two runs really different? `python scripts/compare.py A B [--on val_cost] [--json]`."""

from hillstart.cli.main import compare

if __name__ == "__main__":
    compare()
