"""The usual names of folders for training, validation and test."""

import re
from collections import defaultdict
from collections.abc import Iterable

UNLABELLED = "unlabelled"
"""Folders of pictures without labels, which are not used."""
WORDS = {
    "train": {"train", "training", "trn", "learn", "learning"},
    "val": {"val", "valid", "validation", "validate", "validating", "dev", "devel", "development"},
    "test": {"test", "tests", "testing", "tst", "eval", "evaluation", "evaluate", "holdout", "heldout"},
    UNLABELLED: {"pred", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "inference", "submission"},
}
"""The words for each split, in any case."""
FILLERS = (
    *("datasets", "dataset", "data", "sets", "set", "splits", "split", "folders", "folder", "dir", "samples", "sample"),
    *("images", "image", "imgs", "img", "pictures", "picture", "pics", "pic", "photos", "photo", "jpg", "jpeg", "png"),
)
"""Words that add no meaning, as in `test_set` and `trainimages`; the longer ones first."""

_FILLED = re.compile(f"^({'|'.join(FILLERS)})|({'|'.join(FILLERS)})$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_HELD_OUT = re.compile(r"(hold|held)[\W_]+out", re.IGNORECASE)


def named_like_splits(names: Iterable[str]) -> dict[str, str]:
    """The split of each name that means one, such as `Training`, `test1` or `seg_val`.

    Any other word, such as `seg`, must be in the names of at least two splits: a `test_tube` is not a split.
    """
    read = {name: found for name in names if (found := read_name(name))}
    splits = defaultdict[tuple[str, ...], set[str]](set)
    for split, rest in read.values():
        splits[rest].add(split)
    return {name: split for name, (split, rest) in read.items() if not rest or len(splits[rest]) > 1}


def read_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that a name means, and its other words without fillers and digits; None if it means no single split."""
    splits, rest = set[str](), []
    for word in _WORD.findall(_HELD_OUT.sub(r"\1out", name)):
        word = word.casefold()
        bare = _FILLED.sub("", word)
        split = next((split for split, words in WORDS.items() if word in words or bare in words), None)
        if split:
            splits.add(split)
        elif word not in FILLERS:
            rest.append(word)
    return (splits.pop(), tuple(rest)) if len(splits) == 1 else None


def is_redundant(inner: str, outer: str) -> bool:
    """True if a folder is redundant in its parent: `train/train`, `seg_test/seg_test` and `train/images`."""
    read = read_name(inner)
    if read is None:
        return all(word.casefold() in FILLERS for word in _WORD.findall(inner))
    above = read_name(outer)
    return above is not None and above[0] == read[0]
