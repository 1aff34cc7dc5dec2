"""Pages of the Python interface from its docstrings: `python scripts/docs.py [FOLDER]`, by default in build/docs."""

from argparse import ArgumentParser
from pathlib import Path


def main() -> None:
    parser = ArgumentParser(description="Write pages of the Python interface from its docstrings, offline.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/docs"), help="default: %(default)s")
    folder = parser.parse_args().folder

    import pdoc

    import hillstart

    for name in hillstart.__all__:
        getattr(hillstart, name)  # pdoc looks among the names that are imported already
    pdoc.render.configure(docformat="google", show_source=False, search=False, include_undocumented=False)
    pdoc.pdoc("hillstart", output_directory=folder)
    print(f"open it in a browser: {folder / 'hillstart.html'}")


if __name__ == "__main__":
    main()
