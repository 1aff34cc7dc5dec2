"""Take networks elsewhere: `python scripts/export.py MODEL --to onnx|torch|csv`; `--help` lists the options."""

from hillstart.exporting import main

if __name__ == "__main__":
    main()
