"""The way into training: what a signal finds before the seconds of imports have passed."""

from hillstart import signals


def train() -> None:
    """`hillstart-train` and `scripts/train.py`: train the starts that the options ask for.

    Exit code 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    with signals.caught():
        from hillstart import commands  # which brings torch and Lightning

        commands.train()
