"""What the encoder sees and what it must predict: the masks, drawn on their images."""

import os

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb

from jepa_jax.errors import UserError
from jepa_jax.masks import Masks
from jepa_jax.visualize import figures

HIDDEN = 0.82  # grey level, 0..1, of patches that are not shown
TINT = 0.3  # share of its colour that a target block is tinted with
# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


def mask_overlay(
    images: UInt8[np.ndarray, "n H W C"],
    masks: Masks,
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws a row for each image: the image, its context, each target block (I-JEPA, Figure 4).

    Patches outside the context are grey; each target block is outlined and tinted in its
    colour, the rest of the image faded.

    Args:
      grid: (rows, columns) of patches.
      path: of the PNG.

    Raises:
      UserError: the grid does not divide the images, or there are fewer masks than images.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    if size[0] % grid[0] or size[1] % grid[1]:
        raise UserError(
            f"images of {size[0]}×{size[1]} pixels do not divide into a grid of "
            f"{grid[0]}×{grid[1]} patches: give the model's images and grid"
        )
    context, targets, lengths = (
        np.asarray(x) for x in (masks.context, masks.targets, masks.target_length)
    )
    if len(context) < len(pixels):
        raise UserError(f"{len(context)} masks for {len(pixels)} images: give one for each")
    blocks = targets.shape[1]
    titles = ["image", "context", *(f"target {m + 1}" for m in range(blocks))]
    fig, axes = figures.panels(len(pixels), titles, aspect=size[0] / size[1])
    for i, row in enumerate(axes):
        figures.show(row[0], pixels[i], size)
        figures.show(row[1], context_only(pixels[i], context[i], grid), size)
        for m, axis in enumerate(row[2:]):
            index = targets[i, m, : lengths[i, m]]
            color = COLORS[m % len(COLORS)]
            figures.show(axis, tinted(pixels[i], index, grid, color), size)
            outline(axis, index, grid, size, color)
    figures.save(fig, path)


def context_only(
    image: Float[np.ndarray, "H W 3"], index: Int[np.ndarray, " K"], grid: tuple[int, int]
) -> Float[np.ndarray, "H W 3"]:
    """The image with all patches but those of `index` greyed out."""
    return np.where(_on_pixels(index, image, grid), image, np.float32(HIDDEN))


def tinted(
    image: Float[np.ndarray, "H W 3"],
    index: Int[np.ndarray, "P"],
    grid: tuple[int, int],
    color: str,
) -> Float[np.ndarray, "H W 3"]:
    """The image with the patches of `index` tinted and all others faded towards grey."""
    block = (1 - TINT) * image + TINT * np.array(to_rgb(color), image.dtype)
    faded = 0.25 * image + 0.75 * HIDDEN
    return np.where(_on_pixels(index, image, grid), block, faded).astype(image.dtype)


def _on_grid(index: Int[np.ndarray, "P"], grid: tuple[int, int]) -> Bool[np.ndarray, "R S"]:
    inside = np.zeros(grid[0] * grid[1], bool)
    inside[index] = True
    return inside.reshape(grid)


def _on_pixels(
    index: Int[np.ndarray, "P"], image: Float[np.ndarray, "H W 3"], grid: tuple[int, int]
) -> Bool[np.ndarray, "H W 1"]:
    height, width = image.shape[0] // grid[0], image.shape[1] // grid[1]
    return _on_grid(index, grid).repeat(height, 0).repeat(width, 1)[:, :, None]


def outline(
    axis: Axes,
    index: Int[np.ndarray, "P"],
    grid: tuple[int, int],
    size: tuple[int, int],
    color: str,
    width: float = 1.6,
) -> None:
    """Draws the border between the patches of `index` and the others, whatever the shape."""
    inside = _on_grid(index, grid)
    padded = np.pad(inside, 1)
    across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # horizontal edges (row, column)
    down = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    edges = [((c, r), (c + 1, r)) for r, c in across] + [((c, r), (c, r + 1)) for r, c in down]
    step = np.array([size[1] / inside.shape[1], size[0] / inside.shape[0]])
    lines = LineCollection(
        np.array(edges).reshape(-1, 2, 2) * step,
        colors=color,
        linewidths=width,
        capstyle="projecting",
        clip_on=False,
    )
    axis.add_collection(lines, autolim=False)
