"""Mini-batches: every picture once in each epoch, in an order that depends on seed and epoch alone."""

import pytest
import torch

from hillstart.data.batches import MiniBatches, Sample
from hillstart.data.dataset import Split
from hillstart.system.errors import InputError
from made import blobs

CPU = torch.device("cpu")


def batches(seed: int = 0, augment: str = "none", batch_size: int = 10, balance: str = "none") -> MiniBatches:
    data = blobs(augment=augment)
    return MiniBatches(data.train, 3, data.preprocessing, data.augment, batch_size, seed, CPU, balance)


def test_an_epoch_shows_every_picture_once_with_its_label() -> None:
    made, data = batches(), blobs()
    x, y = made.chunk(0, 0, made.per_epoch)(slice(None))
    shown = {tuple(picture.tolist()): label.argmax().item() for picture, label in zip(x, y, strict=True)}
    inputs = data.preprocessing.normalise(data.train.x)
    assert shown == {tuple(p.tolist()): k for p, k in zip(inputs, data.train.y.tolist(), strict=True)}
    assert not torch.equal(x, inputs)


def test_balanced_classes_are_shown_equally_often() -> None:
    """80 pictures of a class, 20 and 3 of others: 34, 34 and 35 are shown, none of a class twice before all once."""
    data = blobs()
    split = Split(data.train.x, torch.tensor([0] * 80 + [1] * 20 + [2] * 3))
    made = MiniBatches(split, 3, data.preprocessing, data.augment, 10, 0, CPU, "sampling")
    epochs = [made.chunk(epoch, 0, made.per_epoch)(slice(None)) for epoch in (0, 1)]
    number = {tuple(x.tolist()): i for i, x in enumerate(data.preprocessing.normalise(split.x))}
    shown = [
        torch.tensor([number[tuple(picture.tolist())] for picture in x]).bincount(minlength=103) for x, _ in epochs
    ]
    for (_, y), times in zip(epochs, shown, strict=True):
        assert y.sum(0).tolist() == [34, 34, 35] and y[:50].sum(0).min() > 5, "the classes are mixed"
        assert [times[of].unique().tolist() for of in (slice(80), slice(80, 100), slice(100, 103))] == [
            [0, 1],
            [1, 2],
            [11, 12],
        ]
    assert not torch.equal(shown[0][:80], shown[1][:80])


@pytest.mark.parametrize(("augment", "balance"), [("none", "none"), ("photo", "none"), ("photo", "sampling")])
def test_any_part_of_any_epoch_can_be_returned_to(augment: str, balance: str) -> None:
    made = batches(augment=augment, balance=balance)
    whole = {epoch: made.chunk(epoch, 0, made.per_epoch)(slice(None))[0] for epoch in (0, 1, 2)}
    assert torch.equal(batches(augment=augment, balance=balance).chunk(1, 3, 2)(slice(None))[0], whole[1][30:50])
    the_rest = made.chunk(1, 10, 1)(slice(None))[0]
    assert torch.equal(the_rest, whole[1][100:103])
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("augment", ["none", "photo"])
def test_the_order_depends_on_the_seed_alone(augment: str) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (batches(seed, augment).chunk(0, 0, 11)(slice(None))[0] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_sample_is_spread_evenly_and_keeps_its_order() -> None:
    data = blobs()
    sample = Sample(data.train, 3, data.preprocessing, CPU, limit=10)
    x = torch.cat([x for x, _ in sample.batches(4)])
    assert torch.equal(x, data.preprocessing.normalise(data.train.x[[i * 103 // 10 for i in range(10)]]))
    assert sum(len(y) for _, y in Sample(data.val, 3, data.preprocessing, CPU, limit=99).batches()) == 40


@pytest.mark.parametrize("batch_size", [0, -1, 104])
def test_a_batch_of_none_or_more_than_all_is_refused(batch_size: int) -> None:
    with pytest.raises(InputError, match=rf"^descent\.batch_size is {batch_size}; .* 103"):
        batches(batch_size=batch_size)
