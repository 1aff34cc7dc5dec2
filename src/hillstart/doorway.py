"""The ways into the commands: what a signal or a closed pipe finds before the seconds of imports have passed."""

from collections.abc import Callable
from importlib import import_module

from hillstart import signals, terminal


def _command(module: str, function: str = "main") -> Callable[[], None]:
    def run() -> None:
        with terminal.command():
            getattr(import_module(f"hillstart.{module}"), function)()

    return run


audit = _command("auditing")
bench = _command("bench.command")
check_gradients = _command("commands", "check_gradients")
compare = _command("comparison")
explain = _command("explaining")
export = _command("exporting")
predict = _command("predicting")
reliability = _command("report.reliability")
report = _command("reporting")
results = _command("bench.results")
serve = _command("serving")


def train() -> None:
    """`hillstart-train` and `scripts/train.py`: train the starts that the options ask for.

    Exit code 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    with terminal.command(), signals.caught():
        from hillstart import commands  # which brings torch and Lightning

        commands.train()
