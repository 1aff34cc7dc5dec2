"""Classify pictures or rows of a table: `python scripts/predict.py MODEL FILE ...`; `--help` lists the options."""

from hillstart.cli.main import predict

if __name__ == "__main__":
    predict()
