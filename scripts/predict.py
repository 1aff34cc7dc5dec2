"""What is on these pictures? `python scripts/predict.py MODEL IMAGE ...`; `--help` lists the options."""

from hillstart.predicting import main

if __name__ == "__main__":
    main()
