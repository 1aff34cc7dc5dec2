"""Is this folder of pictures fit to train on? `python scripts/audit.py FOLDER`; `--help` lists the options."""

from hillstart.cli.main import audit

if __name__ == "__main__":
    audit()
