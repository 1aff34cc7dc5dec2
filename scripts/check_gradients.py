"""Is the gradient right? `python scripts/check_gradients.py [key=value ...]`, with the keys of scripts/train.py."""

from hillstart.cli.main import check_gradients

if __name__ == "__main__":
    check_gradients()
