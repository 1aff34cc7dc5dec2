"""Augmentation on tensors: small random changes in every epoch that leave a picture's class as it is."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

PRESETS = ("none", "light", "mirror", "doodle", "photo")


@dataclass(frozen=True)
class Augment:
    """The largest changes that augmentation makes to a picture.

    `flip`: exchange left and right in half of the pictures. `shift`: pixels in each direction; edge pixels fill the
    border. `brightness`: added or subtracted, as a share of 255. `contrast`: relative change of the distance of every
    pixel to the picture's mean.
    """

    flip: bool = False
    shift: int = 0
    brightness: float = 0.0
    contrast: float = 0.0

    @classmethod
    def preset(cls, name: str, size: int) -> "Augment":
        """The augmentation of this name for pictures of `size` pixels.

        `light`: shifts up to 1/14 of the size; `mirror`: flips, shifts up to 1/28; `doodle`: flips, shifts up to 1/14;
        `photo`: flips, shifts up to 1/8, brightness and contrast; `none`.
        """
        presets = {
            "none": cls(),
            "light": cls(shift=size // 14),
            "mirror": cls(flip=True, shift=size // 28),
            "doodle": cls(flip=True, shift=size // 14),
            "photo": cls(flip=True, shift=size // 8, brightness=0.2, contrast=0.3),
        }
        return presets[name]

    @property
    def is_none(self) -> bool:
        return self == Augment()

    def __str__(self) -> str:
        changes = [
            *["half are mirrored, left against right"] * self.flip,
            *[f"shifted by up to {self.shift} pixel{'s' * (self.shift > 1)}"] * bool(self.shift),
            *["brightness and contrast change"] * bool(self.brightness or self.contrast),
        ]
        where = "; where left and right tell classes apart, use data.augment=light" if self.flip else ""
        return ", ".join(changes) + where

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 5"]:
        """The random numbers for n pictures, a row each: flip, pixels right, pixels down, brightness, contrast."""
        u = torch.rand(n, 5, generator=generator)
        flip = (u[:, 0] < 0.5 * self.flip).float()
        span = 2 * self.shift + 1
        shifts = (u[:, 1:3] * span).floor().clamp(max=span - 1) - self.shift
        brightness = 255 * self.brightness * (2 * u[:, 3] - 1)
        contrast = 1 + self.contrast * (2 * u[:, 4] - 1)
        return torch.stack([flip, shifts[:, 0], shifts[:, 1], brightness, contrast], dim=1)

    def apply(self, x: UInt8[Tensor, "B C H W"], drawn: Float[Tensor, "B 5"]) -> Float32[Tensor, "B C H W"]:
        """The changed pictures, on the scale of 0 to 255; each depends on its own row of `drawn` alone."""
        B, C, H, W = x.shape
        moved = x
        if self.flip or self.shift:
            flip, right, down = (column.long().unsqueeze(1) for column in drawn[:, :3].unbind(1))
            row = (torch.arange(H, device=x.device) - down).clamp_(0, H - 1)
            column = (torch.arange(W, device=x.device) - right).clamp_(0, W - 1)
            column = torch.where(flip.bool(), W - 1 - column, column)
            pixel = (row.unsqueeze(2) * W + column.unsqueeze(1)).view(B, 1, H * W)
            moved = x.reshape(B, C, H * W).gather(2, pixel.expand(B, C, H * W)).view(B, C, H, W)
        changed = moved.float()
        if self.brightness or self.contrast:
            brightness, contrast = drawn[:, 3], drawn[:, 4]
            # An integer sum is exact, so the mean is the same in any batch.
            mean = moved.flatten(1).sum(1).float() / (C * H * W)
            offset = mean * (1 - contrast) + brightness
            changed.mul_(contrast.view(B, 1, 1, 1)).add_(offset.view(B, 1, 1, 1)).clamp_(0, 255)
        return changed
