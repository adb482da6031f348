"""An encoder's sizes, from a state dict in the reference's names and from what the user tells."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jepa_jax.errors import UserError
from jepa_jax.interop.positions import sincos_grid
from jepa_jax.models.vit import SIZES, Encoder


class Hints(NamedTuple):
    """What a user tells of an encoder, as not every file does."""

    heads: int | None = None  # of the attention
    mean: Sequence[float] | None = None  # of the pixels in 0..1 that it was trained on, by channel
    std: Sequence[float] | None = None

    def normalization(
        self, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation by channel: what is told, or else these, which the file tells."""
        mean = _numbers("mean", mean if self.mean is None else self.mean, channels)
        std = _numbers("std", std if self.std is None else self.std, channels)
        if not min(std) > 0:
            raise UserError(f"std={std} must be above 0")
        return mean, std


def infer_encoder(tensors: Mapping[str, Any], hints: Hints) -> tuple[Encoder, int]:
    """The encoder that the tensors are of, and how many channels its images have.

    Raises:
      UserError: if they are of no such encoder, or it has no usual number of heads.
    """
    kernel = _shape(tensors, "patch_embed.proj.weight", 4)
    width, channels, patch_size, other_side = kernel
    if min(kernel) < 1 or patch_size != other_side:
        raise UserError(f"patch_embed.proj.weight is {kernel}: not of square patches")
    hidden, _ = _shape(tensors, "blocks.0.mlp.fc1.weight", 2)
    depth = len({found[1] for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))})
    usual = {size[:2]: size[2] for size in SIZES.values()}.get((width, depth))
    heads = hints.heads or usual
    if heads is None:
        raise UserError(
            f"an encoder of width {width} and depth {depth} has no usual number of heads, and the"
            " file does not tell it: say heads, such as heads=12"
        )
    if width % heads:
        raise UserError(f"a width of {width} does not divide into heads={heads}")
    return Encoder(width, depth, heads, patch_size, mlp_ratio=hidden / width), channels


def infer_grid(table: np.ndarray) -> tuple[tuple[int, int], bool]:
    """The grid that positions (1, N, D) are of, and whether they are sine-cosine.

    Others must be of a square grid.
    """
    if np.ndim(table) != 3:
        raise UserError(f"positions are {np.shape(table)}, not (1, patches, width)")
    table = np.asarray(table[0], np.float32)
    if grid := sincos_grid(table):
        return grid, True
    side = math.isqrt(len(table))
    if side**2 != len(table):
        raise UserError(f"{len(table)} positions, which are not sine-cosine, make no square grid")
    return (side, side), False


def _numbers(name: str, values: Any, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, values))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        raise UserError(
            f"say the {name} of the pixels (in 0..1) that it was trained on:"
            f" {name} with a value for each of {count} channels, not {values}"
        )
    return numbers


def _shape(tensors: Mapping[str, Any], name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors:
        some = ", ".join(sorted(tensors)[:3])
        raise UserError(f"these weights are of no I-JEPA encoder: no {name}, but {some}, …")
    shape = tuple(np.shape(tensors[name]))
    if len(shape) != axes:
        raise UserError(f"these weights are of no I-JEPA encoder: {name} is {shape}")
    return shape
