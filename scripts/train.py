"""Train: `python scripts/train.py [key=value ...]`; the keys are explained in conf/, `--help` lists them."""

from hillstart.doorway import train

if __name__ == "__main__":
    train()
