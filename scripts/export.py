"""Take networks elsewhere: `python scripts/export.py MODEL --to onnx|torch|csv`; `--help` lists the options."""

from hillstart.cli.main import export

if __name__ == "__main__":
    export()
