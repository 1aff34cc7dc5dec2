"""Entry points of the commands: they handle signals and closed pipes before the imports, which take seconds."""

from collections.abc import Callable
from importlib import import_module

from hillstart.system import console, interrupts


def _command(name: str) -> Callable[[], None]:
    def run() -> None:
        with console.command():
            import_module(f"hillstart.cli.{name}").main()

    return run


audit = _command("audit")
check_gradients = _command("check_gradients")
compare = _command("compare")
evaluate = _command("evaluate")
explain = _command("explain")
export = _command("export")
page = _command("page")
predict = _command("predict")
reliability = _command("reliability")
report = _command("report")
serve = _command("serve")


def train() -> None:
    """`hillstart-train` and `scripts/train.py`: train the starts that the options ask for.

    Exit code 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    with console.command(), interrupts.caught():
        from hillstart.cli.train import train  # imports torch and Lightning

        train()
