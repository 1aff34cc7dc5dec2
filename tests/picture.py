"""The picture of the README anew: `python tests/picture.py RUN`, of a run whose page is written."""

import sys
from pathlib import Path

from browser import opened, photograph, started

if __name__ == "__main__":
    with started() as browser:
        opened(browser, Path(sys.argv[1], "report.html"), width=1060)
        photograph(browser, Path(__file__).parent.parent / "docs/page.png", of="#network")
