"""The one check of options: each has its type and bounds, or is named in one sentence."""

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
    plain: float = 1.0,
) -> int:
    """A stand-in for a function that loads a data set."""
    return side


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("normalise", value) for value in ("no", "off", "none", "false", 0, 1, None)),
        *(("seed", value) for value in (-1, True, 1.0, 2**63, "1", None)),
        *(("side", value) for value in (3, 11, 5.0, "5")),
        *(("fraction", value) for value in (0.0, 1, -0.1, float("nan"), float("inf"), "0.2", True)),
        *(("classes", value) for value in ("lion", [1.5, 2], {"lion": 1})),
        *(("kind", value) for value in ("b", "", ["a"], None)),
        *(("root", value) for value in (5, True, ["x"])),
        ("plain", "1"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"^data\.{key} is .*; it must be ") as refused:
        load(**{"root": None, key: wrong})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "values", "sweep"),
    [("side", [4, 6], "data.side=4,6"), ("classes", [["a", "b"], ["c"]], "'data.classes=[a,b],[c]'")],
)
def test_a_list_of_values_that_need_runs_of_their_own_is_answered_by_a_multirun(
    key: str, values: list[Any], sweep: str
) -> None:
    with pytest.raises(InputError, match=rf"^data\.{key} is .*") as refused:
        load(**{"root": None, key: values})
    assert str(refused.value).endswith(f" -m {sweep}.")
    for wrong in ([4, 11], [4, 4], [4], []):
        with pytest.raises(InputError, match=r"^data\.side is .*; it must be "):
            load(root=None, side=wrong)


def test_right_values_are_passed_on_and_names_may_be_added_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "b", 2)
    assert load(root="x", seed=2**62, normalise=False, side=4, fraction=0.5, classes=("lion", "duck"), kind="b") == 4


def test_a_key_that_is_unknown_or_missing_is_named() -> None:
    for group, options, wrong in (
        ("data", {"root": None, "sead": 1}, r"data\.sead: there is no such key; the nearest is seed\."),
        ("data", {}, r"data\.root is missing"),
        ("", {}, "root is missing"),
    ):
        with pytest.raises(InputError, match=f"^{wrong}"):
            check(group, load, options)


FOLDER = [("colour", "grey"), ("background", 127.5), ("background", True), ("cache", "off")]
COMMON = [("normalise", "no"), ("size", 3), ("size", 5000), ("augment", "foto"), ("seed", -1), ("val_fraction", 1.0)]


@pytest.mark.parametrize("module", [cifar10, folder, idx, lion_duck, quickdraw], ids=lambda m: m.__name__)
def test_every_data_set_checks_its_options_before_it_reads(module: Any) -> None:
    root = {} if module is lion_duck else {"root": "nowhere"}
    for key, wrong in COMMON + FOLDER * (module is folder):
        with pytest.raises(InputError, match=rf"^data\.{key} is "):
            module.load(**root | {key: wrong})
