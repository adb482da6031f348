"""What the features of one patch are like: the patches of all images, by cosine."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from jepa_jax.visualize import figures


def centred(
    features: Float[np.ndarray, "n N D"], bank: Float[np.ndarray, "m N D"]
) -> Float[np.ndarray, "n N D"]:
    """Features minus their mean over the images of a bank, at each position.

    What is left is what tells an image from others: features also say where a patch is, and much
    of their cosine is that.
    """
    return features - bank.mean(0, keepdims=True)


def cosine(a: Float[np.ndarray, "... D"], b: Float[np.ndarray, "... D"]) -> np.ndarray:
    """Along the last axis, -1 to 1; 0 where a vector is 0."""
    norm = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.sum(a * b, axis=-1) / np.maximum(norm, np.finfo(np.float32).tiny)


def salient(features: Float[np.ndarray, "n N D"]) -> Int[np.ndarray, "n"]:
    """The patch of each image that differs most from what is usual at its place."""
    return np.linalg.norm(features, axis=-1).argmax(-1)


def similarity_overview(
    images: UInt8[np.ndarray, "n H W C"],
    features: Float[np.ndarray, "n N D"],
    queries: Sequence[tuple[int, int]],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws a row for each query: its patch, and how like it the patches of all images are.

    Red is a cosine of 1, white 0, blue -1.

    Args:
      features: best `centred`.
      queries: (image, patch).
      grid: (rows, columns) of patches.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    titles = ["patch", *(f"image {i + 1}" for i in range(len(pixels)))]
    fig, axes = figures.panels(len(queries) + 1, titles, aspect=size[0] / size[1])
    for axis, image in zip(axes[0, 1:], pixels, strict=True):
        figures.show(axis, image, size)
    for row, (image, patch) in zip(axes[1:], queries, strict=True):
        figures.show(row[0], pixels[image], size)
        figures.outline_patch(row[0], patch, grid, size)
        for i, axis in enumerate(row[1:]):
            like = cosine(features[i], features[image, patch]).reshape(grid)
            figures.show(axis, figures.colored(like, "RdBu_r", -1, 1), size)
            if i == image:
                figures.outline_patch(axis, patch, grid, size)
    figures.save(fig, path)
