"""Evaluate a network on pictures or rows: `python scripts/evaluate.py MODEL FOLDER`; `--help` lists the options."""

from hillstart.cli.main import evaluate

if __name__ == "__main__":
    evaluate()
