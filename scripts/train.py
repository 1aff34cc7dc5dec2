"""Train: `python scripts/train.py [key=value ...]`; the keys are explained in conf/, `--help` lists them."""

from hillstart.cli.main import train

if __name__ == "__main__":
    train()
