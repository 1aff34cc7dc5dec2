"""A page and an address that say what is on a picture: `python scripts/serve.py MODEL`; `--help` lists the options."""

from hillstart.cli.main import serve

if __name__ == "__main__":
    serve()
