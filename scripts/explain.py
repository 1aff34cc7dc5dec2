"""Explain an answer of a network: `python scripts/explain.py MODEL FILE [--node NODE]`; `--help` lists the options."""

from hillstart.cli.main import explain

if __name__ == "__main__":
    explain()
