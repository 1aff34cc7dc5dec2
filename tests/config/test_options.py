"""The bounds of each option: what is out of them is refused by its key, as composed for the command line."""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from hillstart.config.build import plain
from hillstart.config.code import targets
from hillstart.config.conf import conf_folder
from hillstart.config.options import read_options
from hillstart.system.errors import InputError


@cache
def composed(*options: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return plain(compose("train", list(options)))


def refused(changes: dict[str, Any], *options: str) -> str:
    """The message for these options, of which some have other values, by their keys."""
    changed = deepcopy(composed(*options))
    for key, value in changes.items():
        *groups, name = key.split(".")
        of = changed
        for group in groups:
            of = of.setdefault(group, {})
        of[name] = value
    with pytest.raises(InputError) as error:
        read_options(changed, {*targets(changed)})
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seed", bad) for bad in (-1, 2**64, [], [3, 3], [3, -1])),
        *(("starts", bad) for bad in (0, 1.5, 1_000_001)),
        *(("keep", bad) for bad in (0, 17, "some")),
        ("pack", 0),
        ("report", "off"),
        ("data.normalise", "no"),
        *(("network.hidden", bad) for bad in ([30, 0], 30)),
        ("network.cost", "mse"),
        ("descent._target_", "torch.optim.SGD"),
        *(("descent.eta", bad) for bad in (0, [])),
        ("descent.batch_size", 0),
        ("descent.seed", -1),
        ("stop.patience", -2),
        ("stop.race", 0),
        ("trainer.max_epochs", 0),
        ("trainer.max_time", 5),
        ("trainer.max_steps", 2.5),
        ("trainer.accelerator", "tpu"),
        ("trainer.devices", 0),
        ("trainer.num_nodes", "many"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_key(key: str, value: Any) -> None:
    assert refused({key: value}).startswith(f"{key} is {value!r}; ")


@pytest.mark.parametrize("key", ["nothing", "trainer.gradient_clip_val", "data.colour"])
def test_a_key_that_is_not_there_is_named(key: str) -> None:
    assert refused({key: 1}).startswith(f"{key}: there is no such key")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": [3, 7], "starts": 3}, "starts is 3"),
        ({"starts": 600_000, "descent.eta": [1, 2]}, "starts is 600000, for each of 2 points of a grid; "),
        ({"starts": 100_001, "keep": "all"}, "keep is all, but there are 100001 starts; "),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_named(changes: dict[str, Any], said: str) -> None:
    assert refused(changes).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"descent.momentum": [0, 0.9]}, "descent.momentum is [0, 0.9], which Adam does not use"),
        ({"descent.optimiser.lr": 0.1}, "descent.optimiser.lr: "),
        ({"descent.optimiser.betta": 1}, "descent.optimiser: Adam cannot be used here "),
        ({"descent.optimiser._target_": "torch.optim.LBFGS"}, "descent.optimiser: LBFGS cannot be used "),
        ({"descent.optimiser._target_": "torch.optim.Muon"}, "descent.optimiser: Muon cannot be used "),
        ({"descent.optimiser._target_": "torch.optim.Adafactor"}, "descent.optimiser: Adafactor mixes "),
    ],
    ids=str,
)
def test_an_optimiser_of_torch_that_cannot_be_used_is_named(changes: dict[str, Any], said: str) -> None:
    assert refused(changes, "descent=adam").startswith(said)
