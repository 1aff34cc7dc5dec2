"""Do the probabilities mean what they say? `python scripts/reliability.py RUN [--output FILE]`."""

from hillstart.cli.main import reliability

if __name__ == "__main__":
    reliability()
