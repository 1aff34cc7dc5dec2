"""The drawn data set: equal halves, the same every time, hard but not too hard."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from hillstart.data import lion_duck
from hillstart.system.errors import InputError


@pytest.fixture(autouse=True)
def drawn_anew(monkeypatch: pytest.MonkeyPatch, drawn_once: None) -> None:
    monkeypatch.setattr(lion_duck, "_drawn", lion_duck._drawn.__wrapped__)  # type: ignore[attr-defined]


def test_equal_halves_of_every_split() -> None:
    made = lion_duck.load(train=40, test=20, val_fraction=0.25)
    for split, n in ((made.train, 30), (made.val, 10), (made.test, 20)):
        assert split.x.shape == (n, 1, 28, 28) and split.y.bincount().tolist() == [n // 2, n // 2]
    for key in ("train", "test"):
        with pytest.raises(InputError, match=rf"^data\.{key}: 41 .* even"):
            lion_duck.load(**({"train": 40, "test": 40} | {key: 41}))


def test_the_seed_decides_and_no_drawing_comes_twice() -> None:
    before, ours = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, again, other = (lion_duck.load(train=60, test=40, seed=seed) for seed in (3, 3, 4))
    for name in ("train", "val", "test"):
        assert torch.equal(getattr(first, name).x, getattr(again, name).x)
    drawings = torch.cat([s.x for made in (first, other) for s in (made.train, made.val, made.test)])
    assert len(drawings.unique(dim=0)) == 200
    assert (np.random.get_state()[1] == before).all() and torch.equal(torch.get_rng_state(), ours)


def test_dark_strokes_on_light_paper() -> None:
    x = lion_duck.load(train=200, test=2, size=56).train.x.float()
    assert x.shape[1:] == (1, 56, 56)
    paper = x.flatten(1).median(1).values
    assert (paper > 150).float().mean() > 0.97
    assert (paper - x.flatten(1).min(1).values > 60).all()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices this small are done sooner by one thread than two can agree on them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_small_network_finds_it_hard_but_learnable() -> None:
    made = lion_duck.load(train=2000, test=600)
    g = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 1), nn.Flatten(0))
    for p in network.parameters():
        nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.ndim == 2 else 0.0, generator=g)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(20):
        for batch in torch.randperm(len(made.train.y), generator=g).split(50):
            x = made.augment.apply(made.train.x[batch], made.augment.draw(len(batch), g))
            z = network(made.preprocessing.normalise(x))
            nn.functional.binary_cross_entropy_with_logits(z, made.train.y[batch].float()).backward()
            optimiser.step()
            optimiser.zero_grad()
    found = network(made.preprocessing.normalise(made.test.x)) > 0
    assert 0.90 < (found == made.test.y.bool()).float().mean() < 0.97
