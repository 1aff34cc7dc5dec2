"""Classify pictures: `python scripts/predict.py MODEL IMAGE ...`; `--help` lists the options."""

from hillstart.cli.main import predict

if __name__ == "__main__":
    predict()
