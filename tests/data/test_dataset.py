"""Rules of all sources: splits that keep class shares, classes by name, pictures of one size, options in conf."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from hillstart.data.dataset import Split, assemble, only_classes, pick_classes, resized, stratified
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

KNOWN = ("cat", "dog", "horse")
CONF = Path(__file__).parents[2] / "conf/data"


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_conf_offers_the_options_of_load_with_the_same_defaults(file: Path) -> None:
    options = OmegaConf.to_container(OmegaConf.load(file))
    module, load = options.pop("_target_").rsplit(".", 1)
    parameters = inspect.signature(getattr(importlib.import_module(module), load)).parameters.values()
    defaults = {p.name: None if p.default is p.empty else p.default for p in parameters}
    if "name" in defaults:  # several sets share a module
        defaults["name"] = file.stem
    assert options == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}


def test_a_split_keeps_the_share_of_every_class_and_every_example_once() -> None:
    y = torch.tensor([0] * 100 + [1] * 10 + [2] * 2)[torch.randperm(112, generator=torch.Generator().manual_seed(1))]
    rest, part = stratified(y, 0.2, seed=0)
    assert y[part].bincount().tolist() == [20, 2, 1]
    assert torch.cat([rest, part]).sort().values.tolist() == list(range(112))


def test_a_split_depends_on_its_seed_alone() -> None:
    y = torch.arange(100) % 2
    state = torch.get_rng_state()
    first, again, other = (stratified(y, 0.3, seed) for seed in (5, 5, 6))
    assert all(map(torch.equal, first, again)) and not torch.equal(first[1], other[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_side_of_a_split_has_every_class(fraction: float) -> None:
    rest, part = stratified(torch.tensor([0, 0, 1, 1, 1]), fraction, seed=0)
    assert len(rest) + len(part) == 5
    for side in (rest, part):
        assert torch.tensor([0, 0, 1, 1, 1])[side].unique().tolist() == [0, 1]


def test_a_class_needs_two_examples() -> None:
    for y, wrong in (([0, 0, 1], "class 1 has a single example"), ([], "nothing to split")):
        with pytest.raises(InputError, match=wrong):
            stratified(torch.tensor(y, dtype=torch.int64), 0.5, seed=0)


def test_classes_are_picked_in_the_order_asked_for() -> None:
    assert pick_classes(KNOWN, None) == KNOWN
    assert pick_classes(KNOWN, ["horse", "cat"]) == ("horse", "cat")
    for wanted, wrong in (
        (["cat", "hosre"], "there is no class 'hosre'; did you mean 'horse'"),
        (["cat", "cat"], "'cat' is listed twice"),
        (["cat"], "fewer than two"),
        ([], "fewer than two"),
    ):
        with pytest.raises(InputError, match=rf"^data\.classes: .*{wrong}"):
            pick_classes(KNOWN, wanted)


def test_only_classes_renumbers_labels() -> None:
    x = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    split = only_classes(Split(x, torch.tensor([0, 1, 2, 0, 1, 2])), KNOWN, ("horse", "cat"))
    assert split.x.flatten().tolist() == [0, 2, 3, 5] and split.y.tolist() == [1, 0, 1, 0]


def test_resized_as_for_prediction() -> None:
    x = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = Preprocessing(size=5, channels=3)
    assert torch.equal(resized(x, small)[1], read_picture(x[1].permute(1, 2, 0).numpy(), small))
    assert resized(x, Preprocessing(size=12, channels=3)) is x
    assert resized(x[:, :1], Preprocessing(size=5, channels=1)).shape == (2, 1, 5, 5)


@pytest.mark.parametrize(("normalise", "mean"), [(True, 51 / 255), (False, 0.0)])
def test_statistics_come_from_the_training_split_alone(normalise: bool, mean: float) -> None:
    train, val, test = (
        Split(torch.full((2, 1, 4, 4), level, dtype=torch.uint8), torch.tensor([0, 1])) for level in (51, 200, 250)
    )
    about = {"preprocessing": Preprocessing(size=4, channels=1), "augment": "none", "source": "made"}
    made = assemble(train=train, val=val, test=test, classes=("a", "b"), normalise=normalise, **about)
    assert made.preprocessing.mean == pytest.approx((mean,), abs=1e-15)
