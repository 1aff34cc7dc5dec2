"""The one check of options: each is of its type and in its bounds, or is named in one sentence."""

from typing import Annotated, Any

import pytest

from hillstart.data import cifar10, folder, idx, lion_duck, quickdraw
from hillstart.system.errors import InputError
from hillstart.system.schema import Flag, Location, Names, Seed, Share, check, checked, one_of, whole

KNOWN = {"a": 1}


@checked("data")
def load(
    *,
    root: Location,
    seed: Seed = 0,
    normalise: Flag = True,
    side: Annotated[int, *whole(4, 10)] = 5,
    fraction: Share = 0.2,
    classes: Names = None,
    kind: Annotated[str, *one_of(KNOWN)] = "a",
) -> int:
    """A stand-in for what loads a data set."""
    return side


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("normalise", value) for value in ("no", "off", "none", "false", 0, 1, None)),
        *(("seed", value) for value in (-1, True, 1.0, 2**63, "1", None)),
        *(("side", value) for value in (3, 11, 5.0, "5")),
        *(("fraction", value) for value in (0.0, 1, -0.1, float("nan"), float("inf"), "0.2", True)),
        *(("classes", value) for value in ("lion", [1, 2], {"lion": 1})),
        *(("kind", value) for value in ("b", "", ["a"], None)),
        *(("root", value) for value in (5, True, ["x"])),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_key(key: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^data\.{key} is .*; it must be ") as refused:
        load(**{"root": None, key: wrong})
    assert "\n" not in str(refused.value)


def test_what_fits_is_passed_on() -> None:
    assert load(root="x", seed=2**62, normalise=False, side=4, fraction=0.5, classes=("lion", "duck")) == 4


def test_names_may_be_added_later() -> None:
    KNOWN["b"] = 2
    try:
        assert load(root=None, kind="b") == 5
    finally:
        del KNOWN["b"]


def test_a_key_that_is_unknown_or_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"^data\.sead: there is no such key; the nearest is seed\.$"):
        check("data", load, {"root": None, "sead": 1})
    with pytest.raises(InputError, match=r"^data\.root is missing"):
        check("data", load, {})
    with pytest.raises(InputError, match=r"^root is missing"):
        check("", load, {})


@pytest.mark.parametrize("module", [cifar10, folder, idx, lion_duck, quickdraw], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("key", "wrong"),
    [("normalise", "no"), ("size", 3), ("size", 5000), ("augment", "foto"), ("seed", -1), ("val_fraction", 1.0)],
)
def test_every_data_set_refuses_before_it_reads(module: Any, key: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^data\.{key} is "):
        module.load(**({"root": "nowhere"} if module is not lion_duck else {}) | {key: wrong})


@pytest.mark.parametrize(
    ("key", "wrong"), [("colour", "grey"), ("background", 127.5), ("background", True), ("cache", "off")]
)
def test_a_folder_refuses_before_it_reads(key: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^data\.{key} is "):
        folder.load(root="nowhere", **{key: wrong})
