"""Each augmentation, and that each picture is changed by its own row of random numbers."""

import torch

from hillstart.data.augment import PRESETS, Augment
from pretended import Device

ALL = Augment(flip=True, shift=3, brightness=0.2, contrast=0.3)


def pictures(n: int = 6, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, 9, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(augment: Augment, n: int, seed: int = 0) -> torch.Tensor:
    return augment.draw(n, torch.Generator().manual_seed(seed))


def row(flip: float = 0, right: float = 0, down: float = 0, brightness: float = 0, contrast: float = 1) -> torch.Tensor:
    return torch.tensor([[flip, right, down, brightness, contrast]], dtype=torch.float32)


def test_none_changes_nothing() -> None:
    x = pictures()
    none = Augment.preset("none", 28)
    assert none.is_none and torch.equal(none.apply(x, drawn(none, 6)), x.float())
    assert not any(Augment.preset(name, 28).is_none for name in PRESETS if name != "none")


def test_flip_and_shift_fill_the_border_with_edge_pixels() -> None:
    x = pictures(1)
    assert torch.equal(ALL.apply(x, row(flip=1)), x.flip(3).float())
    right = ALL.apply(x, row(right=2))
    assert torch.equal(right[..., 2:], x[..., :-2].float()) and torch.equal(right[..., 0], x[..., 0].float())
    up = ALL.apply(x, row(down=-3))
    assert torch.equal(up[:, :, :-3], x[:, :, 3:].float()) and torch.equal(up[:, :, -1], x[:, :, -1].float())
    both = ALL.apply(x, row(flip=1, right=2))
    assert torch.equal(both[..., 2:], x.flip(3)[..., :-2].float())


def test_brightness_and_contrast_stay_in_range() -> None:
    x = torch.tensor([0, 100, 200], dtype=torch.uint8).view(1, 1, 1, 3)
    assert ALL.apply(x, row(brightness=20)).flatten().tolist() == [20, 120, 220]
    assert ALL.apply(x, row(contrast=0.5)).flatten().tolist() == [50, 100, 150]
    assert ALL.apply(x, row(brightness=100, contrast=2)).flatten().tolist() == [0, 200, 255]


def test_a_picture_depends_on_its_own_row_alone() -> None:
    x, numbers = pictures(), drawn(ALL, 6)
    together = ALL.apply(x, numbers)
    for i in range(6):
        assert torch.equal(ALL.apply(x[i : i + 1], numbers[i : i + 1])[0], together[i])
    assert torch.equal(ALL.apply(x, numbers), together) and torch.equal(x, pictures())


def test_draws_follow_the_generator_and_fill_their_ranges() -> None:
    state = torch.get_rng_state()
    numbers = drawn(ALL, 4000)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(numbers, drawn(ALL, 4000)) and not torch.equal(numbers, drawn(ALL, 4000, seed=1))
    assert numbers[:, 0].unique().tolist() == [0, 1] and 0.47 < numbers[:, 0].mean() < 0.53
    for column in (1, 2):
        assert numbers[:, column].unique().tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert 50 < numbers[:, 3].max() <= 51 and -51 <= numbers[:, 3].min() < -50
    assert 1.29 < numbers[:, 4].max() <= 1.3 and 0.7 <= numbers[:, 4].min() < 0.71


def test_presets() -> None:
    assert Augment.preset("photo", 32).shift == 4 and Augment.preset("doodle", 28) == Augment(flip=True, shift=2)
    assert "by up to 1 pixel;" in str(Augment.preset("mirror", 28))


def test_the_same_on_cuda(cuda: Device | None) -> None:
    x, numbers = pictures(), drawn(ALL, 6)
    assert (ALL.apply(x.cuda(), numbers.cuda()).cpu() - ALL.apply(x, numbers)).abs().max() < 1e-4
