"""What all sources share: splits that keep class shares, classes by name, pictures of one size."""

import pytest
import torch

from hillstart.data.dataset import Split, assemble, only_classes, pick_classes, resized, stratified
from hillstart.data.images import read_picture
from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

KNOWN = ("cat", "dog", "horse")


def test_a_split_keeps_the_share_of_every_class_and_every_example_once() -> None:
    y = torch.tensor([0] * 100 + [1] * 10 + [2] * 2)[torch.randperm(112, generator=torch.Generator().manual_seed(1))]
    rest, part = stratified(y, 0.2, seed=0)
    assert y[part].bincount().tolist() == [20, 2, 1]
    assert torch.cat([rest, part]).sort().values.tolist() == list(range(112))


def test_a_split_follows_its_seed_and_nothing_else() -> None:
    y = torch.arange(100) % 2
    state = torch.get_rng_state()
    first = stratified(y, 0.3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert all(map(torch.equal, first, stratified(y, 0.3, seed=5)))
    assert not torch.equal(first[1], stratified(y, 0.3, seed=6)[1])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_side_of_a_split_has_every_class(fraction: float) -> None:
    rest, part = stratified(torch.tensor([0, 0, 1, 1, 1]), fraction, seed=0)
    assert len(rest) + len(part) == 5
    for side in (rest, part):
        assert torch.tensor([0, 0, 1, 1, 1])[side].unique().tolist() == [0, 1]


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="class 1 has a single example"):
        stratified(torch.tensor([0, 0, 1]), 0.5, seed=0)
    with pytest.raises(InputError, match="nothing to split"):
        stratified(torch.tensor([], dtype=torch.int64), 0.5, seed=0)


def test_classes_are_picked_in_the_order_asked_for() -> None:
    assert pick_classes(KNOWN, None) == KNOWN
    assert pick_classes(KNOWN, ["horse", "cat"]) == ("horse", "cat")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["cat", "hosre"], "there is no class 'hosre'; did you mean 'horse'"),
        (["cat", "Dog"], "did you mean 'dog'"),
        (["cat", "cat"], "'cat' is listed twice"),
        (["cat"], "fewer than two"),
        ([], "fewer than two"),
        ("cat", "is one name; give a list"),
    ],
)
def test_classes_that_cannot_be_picked(wanted: list[str] | str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^data\.classes: .*{said}"):
        pick_classes(KNOWN, wanted)


def test_only_classes_renumbers_labels() -> None:
    x = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    split = only_classes(Split(x, torch.tensor([0, 1, 2, 0, 1, 2])), KNOWN, ("horse", "cat"))
    assert split.x.flatten().tolist() == [0, 2, 3, 5] and split.y.tolist() == [1, 0, 1, 0]


def test_resized_is_what_prediction_does() -> None:
    x = torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = Preprocessing(size=5, channels=3)
    assert torch.equal(resized(x, small)[1], read_picture(x[1].permute(1, 2, 0).numpy(), small))
    assert resized(x, Preprocessing(size=12, channels=3)) is x
    grey = x[:, :1]
    assert resized(grey, Preprocessing(size=5, channels=1)).shape == (2, 1, 5, 5)


def test_statistics_come_from_the_training_split_alone() -> None:
    def split(level: int) -> Split:
        return Split(torch.full((2, 1, 4, 4), level, dtype=torch.uint8), torch.tensor([0, 1]))

    for normalise, mean in ((True, 51 / 255), (False, 0.0)):
        made = assemble(
            train=split(51),
            val=split(200),
            test=split(250),
            classes=("a", "b"),
            preprocessing=Preprocessing(size=4, channels=1),
            augment="none",
            normalise=normalise,
            source="made",
        )
        assert made.preprocessing.mean == pytest.approx((mean,), abs=1e-15)
