"""What features tell apart: their first three principal components as colours."""

import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from scipy.linalg import orthogonal_procrustes

from jepa_jax.errors import UserError
from jepa_jax.visualize import figures


def pca_scores(
    features: Float[np.ndarray, "n N D"], like: Float[np.ndarray, "n N 3"] | None = None
) -> Float[np.ndarray, "n N 3"]:
    """The first three principal components over all patches of all images, each of variance 1.

    Components that do not vary, or that narrow features do not have, are 0.

    Args:
      like: scores of the same patches at another step, to which these are turned by the rotation
        (or reflection) that brings them closest (orthogonal Procrustes); so that what is found
        again keeps its colour, though training turns the features. None: the sign of a component
        is that which makes its largest weight positive.

    Raises:
      UserError: features are not (n, N, D), are empty or are not finite; `like` is of others.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 3 or features.size == 0 or not np.isfinite(features).all():
        raise UserError(f"features of shape {features.shape}: give finite (images, patches, width)")
    patches = features.reshape(-1, features.shape[-1])
    patches = patches - patches.mean(0)
    variance, axes = np.linalg.eigh(patches.T @ patches / len(patches))
    variance, axes = variance[::-1][:3], axes[:, ::-1][:, :3]  # eigh's order is ascending
    strongest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    # Less than rounding leaves is no variation, and must not be blown up to colours.
    varies = variance > 1e-12 * max(variance[0], np.finfo(float).tiny)
    scale = np.where(varies, np.sign(strongest[0]) / np.sqrt(np.where(varies, variance, 1)), 0)
    scores = np.pad(patches @ (axes * scale), ((0, 0), (0, 3 - axes.shape[1])))
    if like is not None:
        if np.shape(like) != (*features.shape[:2], 3):
            raise UserError(f"like has shape {np.shape(like)}: give the scores of the same patches")
        scores = scores @ orthogonal_procrustes(scores, np.reshape(like, scores.shape))[0]
    return scores.reshape(*features.shape[:2], 3)


def pca_rgb(
    features: Float[np.ndarray, "n N D"], like: Float[np.ndarray, "n N 3"] | None = None
) -> Float[np.ndarray, "n N 3"]:
    """Colours in 0..1 of `pca_scores`. The same colour means the same in every image.

    Each component is scaled so that its 1st and 99th percentile become 0 and 1, beyond which it is
    cut; 0.5 if it does not vary. The use of PCA maps follows DINOv2 (Oquab et al. 2023, Figure 1).
    """
    scores = pca_scores(features, like)
    low, high = np.percentile(scores, (1, 99), axis=(0, 1))
    varies = high - low > 1e-9
    colors = np.where(varies, (scores - low) / np.where(varies, high - low, 1), 0.5)
    return colors.clip(0, 1)


def pca_overview(
    images: UInt8[np.ndarray, "n H W C"],
    features: Float[np.ndarray, "n N D"],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws each image beside the PCA map of its patches' features, four pairs a row.

    Args:
      features: for each image, those of its N = rows · columns patches in raster order.
      grid: (rows, columns) of patches.
      path: of the PNG.

    Raises:
      UserError: as `pca_rgb`, or the features are not one for each patch of each image.
    """
    pixels = figures.as_rgb(images)
    if np.shape(features)[:2] != (len(pixels), grid[0] * grid[1]):
        raise UserError(
            f"features of shape {np.shape(features)} for {len(pixels)} images on a grid of "
            f"{grid[0]}×{grid[1]}: give (images, rows · columns, width)"
        )
    maps = pca_rgb(features).reshape(-1, *grid, 3)
    size = pixels.shape[1:3]
    pairs = min(4, len(pixels))
    rows = -(-len(pixels) // pairs)
    fig, axes = figures.panels(rows, ["image", "features"] * pairs, aspect=size[0] / size[1])
    for i, (image, colors) in enumerate(zip(pixels, maps, strict=True)):
        left, right = axes[i // pairs, 2 * (i % pairs) :][:2]
        figures.show(left, image, size)
        figures.show(right, colors, size)
    figures.save(fig, path)


def pca_steps(
    images: UInt8[np.ndarray, "n H W C"],
    features: Mapping[int, Float[np.ndarray, "n N D"]],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws the PCA map of each image at several steps of a run, each in the colours of the next.

    Args:
      features: of the images' patches, by step.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    steps = sorted(features)
    colors, like = {}, None
    for step in reversed(steps):  # from the last, which has learned most
        colors[step] = pca_rgb(features[step], like).reshape(-1, *grid, 3)
        like = pca_scores(features[step], like)
    titles = ["image", *(f"step {step:,}" for step in steps)]
    fig, axes = figures.panels(len(pixels), titles, aspect=size[0] / size[1])
    for i, row in enumerate(axes):
        figures.show(row[0], pixels[i], size)
        for axis, step in zip(row[1:], steps, strict=True):
            figures.show(axis, colors[step][i], size)
    figures.save(fig, path)
