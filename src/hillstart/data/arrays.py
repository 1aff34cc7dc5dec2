"""Pictures that are given as arrays or tensors: one rule for both.

=============  ===========================================================================
shape          (H, W), (H, W, C) or (C, H, W); C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
uint8          from 0 to 255
floats         from 0 to 1, rounded to the nearest of 256 levels
bool           False is black, True is white
uint16         from 0 to 65535; grey only
=============  ===========================================================================
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hillstart.data.preprocessing import Preprocessing
from hillstart.system.errors import InputError

CHANNELS = range(1, 5)
SHAPES = "(H, W), (H, W, C) or (C, H, W) with 1 to 4 channels C"


def from_array(array: np.ndarray | Tensor) -> Image.Image:
    """One picture as a PIL image.

    Raises:
        InputError: its type, its range or its shape is none of the above, or its shape can be read in two ways.
    """
    name = "the given array"
    if isinstance(array, Tensor):
        name, array = "the given tensor", as_numpy(array)
    array = _channels_last(array, name)
    if 0 in array.shape:
        raise InputError(f"{name}: holds no pixels; give a picture of at least 1 x 1.")
    return Image.fromarray(np.ascontiguousarray(_levels(array, name)))


def check_not_flat(array: np.ndarray | Tensor, preprocessing: Preprocessing) -> None:
    """Raise InputError if an array can be one grey picture, or several, each a row of all pixels."""
    size, shape, kind = preprocessing.size, tuple(array.shape), "tensor" if isinstance(array, Tensor) else "array"
    if len(shape) == 2 and shape[1] == preprocessing.inputs:
        colour = preprocessing.channels == 3
        forms = f"(-1, {size}, {size}, 3) or (-1, 3, {size}, {size})" if colour else f"(-1, {size}, {size}, 1)"
        raise InputError(
            f"the given {kind}: shape {shape} can be one picture, or {shape[0]} rows of {shape[1]} pixels; reshape "
            f"rows to {forms}, and give one picture as a PIL picture, Image.fromarray(x)."
        )


def as_numpy(tensor: Tensor) -> np.ndarray:
    """The numbers of a tensor, on any device, as an array."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """The picture as (H, W) or (H, W, 2 to 4)."""
    shape = tuple(array.shape)
    if array.ndim == 1:
        raise InputError(f"{name}: shape {shape} is one row; reshape it to {SHAPES}.")
    if array.ndim == 4:
        raise InputError(f"{name}: shape {shape} is that of several pictures; give them one by one.")
    if array.ndim not in (2, 3):
        raise InputError(f"{name}: shape {shape} is not {SHAPES}.")
    if array.ndim == 3:
        last, first = shape[2] in CHANNELS, shape[0] in CHANNELS
        if last and first:
            raise InputError(
                f"{name}: shape {shape} can be (H, W, C) or (C, H, W), as a side has at most 4 pixels; give a PIL "
                "picture, Image.fromarray(x) for (H, W, C), or transpose (C, H, W) first: x.transpose(1, 2, 0)."
            )
        if not last and not first:
            raise InputError(
                f"{name}: shape {shape} is not {SHAPES}; transpose it if its channels are in the middle, and give "
                "several grey pictures as (N, H, W, 1): x[..., None]."
            )
        array = array if last else array.transpose(1, 2, 0)
        array = array[..., 0] if array.shape[2] == 1 else array
    return array


def _levels(array: np.ndarray, name: str) -> np.ndarray:
    """The same picture in uint8, or in uint16 if it is grey of 16 bits."""
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2):
        return array
    if array.dtype == np.bool_:
        return array * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        if not ((array >= 0) & (array <= 1)).all():
            raise InputError(
                f"{name}: holds numbers outside 0 to 1; divide by the largest that is possible, or give uint8."
            )
        return (array.astype(np.float64) * 255).round().astype(np.uint8)
    if array.dtype == np.uint16:
        raise InputError(f"{name}: is a colour picture of uint16; give uint8, as (x // 257).astype('uint8').")
    raise InputError(f"{name}: its type {array.dtype} has no known range; give uint8, or numbers from 0 to 1.")
