"""The text of `--help` of a training: commands, and every key with its default and its comment in conf."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from hillstart.config.conf import choices, conf_folder
from hillstart.system import interrupts

EXAMPLES = (
    ("", "16 starts learn to tell drawn lions from ducks"),
    ("experiment=photos data.root=FOLDER", "your own photos, a folder for each kind: FOLDER/lion/*.jpg ..."),
    ("starts=64 descent.eta=0.05 'network.hidden=[100]'", "other values of the keys below"),
    ("-m 'seed=range(0,100)' descent.eta=0.1,0.5", "a multirun: every combination is a job"),
    ("resume=outputs/DATE/TIME", "go on with a run that was interrupted"),
)
OTHERS = ("audit", "predict", "evaluate", "report", "explain", "compare", "export", "serve")

COLUMN = 32
"""Characters for a key and its default."""

_KEY = re.compile(r"( *)(\w+):(?: ([^#]*))?(?:# (.*))?")
_GROUP = re.compile(r"  - (\w+): (\w+) # (.*)")
_MORE = re.compile(r" *# (.*)")


def page(overrides: Sequence[str]) -> str:
    """The whole text, for the groups that conf and these overrides choose."""
    folder, command = conf_folder(), interrupts.program("train")
    chosen = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    train = (folder / "train.yaml").read_text(encoding="utf-8")
    lines = ["Train many random starts of a network, rank them by validation cost, and test the best.", ""]
    for options, meaning in EXAMPLES:
        lines += [f"  # {meaning}", f"  {command} {options}".rstrip()]
    others = f"{interrupts.program(OTHERS[0])}, and in the same way {', '.join(OTHERS[1:])}"
    lines += ["", *_wrapped("Other commands, each with a --help: ", others), ""]
    lines += _wrapped("", f"The keys, as KEY=DEFAULT, from the files in {folder}")
    lines += ["", *_keys(train.partition("\nhydra:")[0], "")]
    for group, default, meaning in _GROUP.findall(train):
        name = chosen.get(group, default)
        lines += ["", *_wrapped(f"{group}={name}: ", f"{meaning}; one of {', '.join(choices(group))}")]
        if (path := folder / group / f"{name}.yaml").is_file() and group != "experiment":
            lines += _keys(path.read_text(encoding="utf-8"), f"{group}.")
    dashes = "-m: a multirun; --cfg job: the options that a command would use; --version; --hydra-help: more of Hydra's"
    lines += ["", *_wrapped("", f"{dashes}. GROUP=NAME --help explains the keys of another file of a group."), ""]
    return "\n".join(lines)


def _keys(text: str, prefix: str) -> Iterator[str]:
    """A line, or more, for each key of a file of conf that a user may set."""
    found = list[tuple[str, list[str]]]()
    above = dict[int, str]()
    for line in text.splitlines():
        if (match := _KEY.fullmatch(line)) and not match[2].startswith("_") and match[2] != "defaults":
            above[len(match[1])] = match[2]
            path = ".".join(name for indent, name in above.items() if indent <= len(match[1]))
            if match[3]:
                found.append((f"{prefix}{path}={match[3].strip()}", [match[4]] if match[4] else []))
        elif found and line.startswith(" ") and (match := _MORE.fullmatch(line)):
            found[-1][1].append(match[1])
    for key, comment in found:
        yield from _wrapped(f"  {key:{COLUMN}} ", " ".join(comment))


def _wrapped(head: str, text: str) -> list[str]:
    width = max(2 * COLUMN, min(120, shutil.get_terminal_size((100, 0)).columns))
    indent = " " * (COLUMN + 3 if head.startswith(" ") else 2)
    return textwrap.wrap(head + text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
