"""The command line of inference."""


def main() -> None:
    """`hillstart-predict` and `scripts/predict.py`."""
