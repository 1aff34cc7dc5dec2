"""What is on these pictures? `python scripts/predict.py MODEL IMAGE ...`; `--help` lists the options."""

from hillstart.doorway import predict

if __name__ == "__main__":
    predict()
