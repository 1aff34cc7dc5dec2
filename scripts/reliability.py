"""Do the probabilities mean what they say? `python scripts/reliability.py RUN [--output FILE]`."""

from hillstart.report.reliability import main

if __name__ == "__main__":
    main()
