"""Is this folder of pictures fit to train on? `python scripts/audit.py FOLDER`; `--help` lists the options."""

from hillstart.auditing import main

if __name__ == "__main__":
    main()
