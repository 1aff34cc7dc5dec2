"""The words typed for a training, brought into the form that Hydra reads, or refused with the form that it would."""

import difflib
import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hillstart.config.conf import choices, groups, known_keys
from hillstart.system.errors import InputError

FLAGS = {
    **dict.fromkeys(
        ("-h", "--help", "--version", "-m", "--multirun", "-r", "--run", "--resolve", "-i", "--info"), False
    ),
    **dict.fromkeys(("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"), True),
    **dict.fromkeys(("-cd", "--config-dir", "--experimental-rerun"), True),
}
"""Options of Hydra with dashes, and whether a value follows."""
OTHER_WORDS = {"--hydra-help", "--shell-completion", "-sc"}
"""Options of Hydra after which words have a meaning of their own."""

TEXTS = {"resume", "data.root", "data.classes", "data.columns", "data.label", "hydra.run.dir", "hydra.sweep.dir"}
"""Keys of names, where a number is a name too."""

MEANT = {
    **dict.fromkeys(("lr", "learning_rate", "step_size"), "descent.eta"),
    **dict.fromkeys(("epochs", "n_epochs", "num_epochs", "epoch", "max_iter"), "trainer.max_epochs"),
    **dict.fromkeys(("batch", "bs", "batchsize", "train_batch_size"), "descent.batch_size"),
    **dict.fromkeys(("seeds", "n_seeds", "num_seeds", "n_starts", "restarts", "n_init", "runs"), "starts"),
    **dict.fromkeys(("weight_decay", "wd", "l2", "lambda", "reg"), "descent.lmbda"),
    **dict.fromkeys(("mu", "beta1"), "descent.momentum"),
    **dict.fromkeys(("lr_schedule", "scheduler", "lr_scheduler"), "descent.schedule"),
    **dict.fromkeys(("optim", "optimizer", "optimiser", "solver"), "descent"),
    **dict.fromkeys(
        ("layers", "hidden_layer_sizes", "hidden_size", "hidden_sizes", "width", "units"), "network.hidden"
    ),
    **dict.fromkeys(("loss", "criterion"), "network.cost"),
    **dict.fromkeys(("init", "initializer", "initialization"), "network.start"),
    **dict.fromkeys(("model", "net", "arch"), "network"),
    **dict.fromkeys(("early_stopping", "n_iter_no_change"), "stop.patience"),
    **dict.fromkeys(("dataset", "datamodule"), "data"),
    **dict.fromkeys(("data_dir", "data_path", "folder", "path"), "data.root"),
    **dict.fromkeys(("imgsz", "image_size", "img_size"), "data.size"),
    **dict.fromkeys(("aug", "augmentation", "transform"), "data.augment"),
    **dict.fromkeys(("device", "gpu", "cuda"), "trainer.accelerator"),
    **dict.fromkeys(("gpus", "n_gpus", "num_gpus"), "trainer.devices"),
    **dict.fromkeys(("out", "output", "output_dir", "out_dir", "save_dir"), "hydra.run.dir"),
    **dict.fromkeys(("checkpoint", "ckpt", "ckpt_path", "resume_from"), "resume"),
}
"""Words of other frameworks, and the keys that mean the same here."""


def readable(arguments: list[str]) -> list[str]:
    """Bring what is typed into the form that Hydra reads: its own flags first, and in quotes what is text.

    Raises:
        InputError: a word is no option, an option has no key, or a group is given no name of a file.
    """
    if OTHER_WORDS & set(arguments):
        return arguments
    flags, overrides = list[str](), list[str]()
    words = list(reversed(arguments))
    while words:
        word = words.pop()
        if (word.startswith("-") and "=" not in word) or word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in FLAGS:
                raise _not_dashed(name, value or next((w for w in reversed(words) if w[:1] not in "-~"), ""))
            takes = FLAGS[name] or (name in ("-i", "--info") and "=" not in "".join(words[-1:]))
            flags += [word, words.pop()] if takes and words and not equals else [word]
        elif "=" in word or word.startswith("~"):
            overrides.append(word)
        else:
            value = words[-1] if words and "=" not in words[-1] else "VALUE"
            key = word if word in known_keys() else (*meant(word), "KEY")[0]
            raise InputError(f"{word}: options are written KEY=VALUE, as in {shlex.quote(f'{key}={value}')}.")
    sweeps = bool({"-m", "--multirun"} & set(flags))
    return [*flags, *(_readable(override, sweeps) for override in overrides)]


def _not_dashed(name: str, value: str) -> InputError:
    keys = meant(name.lstrip("-").replace("-", "_")) or ["KEY"]
    forms = " or ".join(shlex.quote(f"{key}={'VALUE' if '=' in value else value or 'VALUE'}") for key in keys)
    return InputError(f"{name}: options are written KEY=VALUE, without dashes, as in {forms}; --help lists them.")


def _readable(override: str, sweeps: bool) -> str:
    sign_and_key, equals, value = override.partition("=")
    key = sign_and_key.lstrip("+~")
    if equals and not key:
        raise InputError(f"{override}: has no key; give KEY=VALUE.")
    if not _reads(sign_and_key + "=1"):
        raise InputError(no_such_key(key))
    if equals and key in groups() and not re.match(r"['\"]?\w", value.replace("null", "")):
        raise InputError(f"{override}: is not a choice; use one of {', '.join(choices(key))}.")
    if value.startswith("~"):
        value = str(Path(value).expanduser())
    if key in TEXTS and not sweeps and value != "null" and Path(unquoted(value)).exists():
        value = quoted(unquoted(value))  # whatever else its name could mean
    elif key in TEXTS and not re.match(r"\w+\(", value):
        value = _quoted_parts(value, sweeps, (int, float, dict))
    if not _reads(f"x={value}"):
        parts = _quoted_parts(value, sweeps)
        value = parts if _reads(f"x={parts}") else quoted(value)
    return f"{sign_and_key}{equals}{value}"


def _quoted_parts(value: str, several: bool, quote: tuple[type, ...] = ()) -> str:
    """Put in quotes each part of a list, or of several values, that cannot be read or is read as one of `quote`."""
    parts = re.split(r",(?![^\[(]*[\])])", value) if several else [value]
    return ",".join(
        f"[{_quoted_parts(part[1:-1], True, quote)}]"
        if re.fullmatch(r"\[[^][]+\]", part)
        else part
        if _reads(f"x={part}", quote)
        else quoted(part)
        for part in map(str.strip, parts)
    )


def _reads(override: str, never: tuple[type, ...] = ()) -> bool:
    """True if Hydra can read an override, as a value of none of these types."""
    try:
        return not isinstance(OverridesParser.create().parse_override(override).value(), never)
    except HydraException:
        return False


def quoted(text: object) -> str:
    """The text in quotes, as Hydra reads it back."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), str(text)) + "'"


def unquoted(value: str) -> str:
    """The text that Hydra reads from a value."""
    if value[:1] not in ("'", '"') or not _reads(f"x={value}"):
        return value
    return str(OverridesParser.create().parse_override(f"x={value}").value())


# ---------------------------------------------------------------- keys


def meant(wrong: str) -> list[str]:
    """The keys that an unknown key may mean: by its meaning elsewhere, by its letters, or by its last part."""
    last, known = wrong.rpartition(".")[2].lower(), known_keys()
    if last in MEANT:
        return [MEANT[last]]
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return list(dict.fromkeys([*near, *(key for key in known if key.rpartition(".")[2] == last and key != wrong)]))


def no_such_key(wrong: str) -> str:
    """The sentence about an unknown key, with the keys that it may mean."""
    keys = meant(wrong)
    nearest = f"the nearest {'are' if len(keys) > 1 else 'is'} {', '.join(keys)}" if keys else "--help lists all"
    return f"{wrong}: there is no such key; {nearest}."
