"""What the predictor means, in pixels: the real patches whose features are nearest to its own."""

import os

import numpy as np
from jaxtyping import Float, Int, UInt8

from jepa_jax.masks import Masks
from jepa_jax.models.vit import patchify
from jepa_jax.visualize import figures
from jepa_jax.visualize.masks import HIDDEN, context_only


def nearest(
    queries: Float[np.ndarray, "q D"], bank: Float[np.ndarray, "b D"]
) -> Int[np.ndarray, "q"]:
    """For each query the member of the bank with the largest cosine."""
    unit = bank / np.maximum(np.linalg.norm(bank, axis=-1, keepdims=True), 1e-12)
    # In parts: the bank may hold a hundred thousand patches.
    parts = np.array_split(queries, max(1, len(queries) // 1024))
    return np.concatenate([(part @ unit.T).argmax(-1) for part in parts])


def retrieval_overview(
    images: UInt8[np.ndarray, "n H W C"],
    masks: Masks,
    predicted: Float[np.ndarray, "n M P D"],
    true: Float[np.ndarray, "n M P D"],
    bank_images: UInt8[np.ndarray, "m H W C"],
    bank: Float[np.ndarray, "m N D"],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws a row for each image: itself, its context, and its first target blocks as collages.

    Each patch of a block is shown as the patch of the bank whose target features are nearest:
    to the predicted features, and to the true ones, which is the best that a collage can be.

    Args:
      bank_images: other images, from whose patches is taken.
      bank: the features of their patches, normalised as targets.
      grid: (rows, columns) of patches.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    side = size[0] // grid[0]
    own, supply = (patchify(x, side) for x in (pixels, figures.as_rgb(bank_images)))
    supply = supply.reshape(-1, supply.shape[-1])
    flat = bank.reshape(-1, bank.shape[-1])
    blocks = min(2, predicted.shape[1])
    titles = ["image", "context"]
    for m in range(blocks):
        titles += [f"{what} {m + 1}" for what in ("block", "predicted", "true")]
    fig, axes = figures.panels(len(pixels), titles, aspect=size[0] / size[1])
    for i, row in enumerate(axes):
        context = context_only(pixels[i], masks.context[i], grid)
        empty = np.full_like(own[i], HIDDEN)
        figures.show(row[0], pixels[i], size)
        figures.show(row[1], context, size)
        for m in range(blocks):
            index = masks.targets[i, m, : masks.target_length[i, m]]
            found = [nearest(x[i, m, : len(index)], flat) for x in (predicted, true)]
            for axis, patches in zip(
                row[2 + 3 * m :], (own[i, index], *(supply[f] for f in found)), strict=False
            ):
                figures.show(axis, figures.on_image(empty, index, patches, grid, 3), size)
    figures.save(fig, path)
