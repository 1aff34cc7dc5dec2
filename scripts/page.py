"""Write the page for a class: `python scripts/page.py [FILE]` writes docs/index.html; `--help` says more."""

from hillstart.cli.main import page

if __name__ == "__main__":
    page()
