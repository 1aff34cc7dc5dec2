"""Open the box: `python scripts/report.py RUN [--image FILE]` writes RUN/report.html; `--help` lists the options."""

from hillstart.cli.main import report

if __name__ == "__main__":
    report()
