"""The predictor's view: how near what it says of a block is to what the target encoder says."""

import os

import numpy as np
from jaxtyping import Float, UInt8

from jepa_jax.masks import Masks
from jepa_jax.visualize import figures
from jepa_jax.visualize.masks import HIDDEN, context_only
from jepa_jax.visualize.similarity import cosine


def block_agreement(
    predicted: Float[np.ndarray, "n M P D"],
    true: Float[np.ndarray, "n M P D"],
    masks: Masks,
    usual: Float[np.ndarray, "N D"],
) -> Float[np.ndarray, "n M P"]:
    """Cosine of predicted and true features, from what is usual at a position; NaN for padding.

    1 is a perfect prediction; one that knows the position, and nothing of the image, has 0.

    Args:
      usual: the mean of true features at each position, over many images.
    """
    usual = usual[masks.targets]
    agreement = cosine(predicted - usual, true - usual)
    return np.where(masks.real, agreement, np.nan)


def prediction_overview(
    images: UInt8[np.ndarray, "n H W C"],
    masks: Masks,
    agreement: Float[np.ndarray, "n M P"],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws a row for each image: itself, its context, and each block in the colour of agreement.

    Red is a cosine of 1, white 0, blue -1; under each block its mean.

    Args:
      agreement: of `block_agreement`.
      grid: (rows, columns) of patches.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    blocks = agreement.shape[1]
    titles = ["image", "context", *(f"target {m + 1}" for m in range(blocks))]
    fig, axes = figures.panels(len(pixels), titles, aspect=size[0] / size[1])
    for i, row in enumerate(axes):
        figures.show(row[0], pixels[i], size)
        figures.show(row[1], context_only(pixels[i], masks.context[i], grid), size)
        for m, axis in enumerate(row[2:]):
            known = np.full(grid[0] * grid[1], np.nan)
            real = slice(masks.target_length[i, m])
            known[masks.targets[i, m, real]] = agreement[i, m, real]
            figures.show(axis, 0.25 * pixels[i] + 0.75 * HIDDEN, size)
            colors = figures.colored(known.reshape(grid), "RdBu_r", -1, 1)
            figures.show(axis, np.dstack([colors, np.isfinite(known.reshape(grid))]), size)
            figures.note(axis, f"{np.nanmean(agreement[i, m]):.2f}")
    figures.save(fig, path)
