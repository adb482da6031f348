"""What features tell apart: their first three principal components as colours."""

import os

import numpy as np
from jaxtyping import Float, UInt8

from jepa_jax.errors import UserError
from jepa_jax.visualize import figures


def pca_rgb(features: Float[np.ndarray, "n N D"]) -> Float[np.ndarray, "n N 3"]:
    """Colours in 0..1 from the first three principal components over all patches of all images.

    The same colour means the same in every image. The sign of a component is that which makes
    its largest weight positive; each is scaled so that its 1st and 99th percentile become 0 and
    1, beyond which it is cut. Components that do not vary, or that narrow features do not have,
    are 0.5. The use of PCA maps follows DINOv2 (Oquab et al. 2023, Figure 1).

    Raises:
      UserError: features are not (n, N, D), are empty or are not finite.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 3 or features.size == 0 or not np.isfinite(features).all():
        raise UserError(f"features of shape {features.shape}: give finite (images, patches, width)")
    patches = features.reshape(-1, features.shape[-1])
    patches = patches - patches.mean(0)
    variance, axes = np.linalg.eigh(patches.T @ patches / len(patches))
    axes = axes[:, ::-1][:, :3]  # eigh's order is ascending
    strongest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    scores = patches @ (axes * np.sign(strongest))
    low, high = np.percentile(scores, (1, 99), axis=0)
    # Less than rounding leaves is no variation, and must not be blown up to colours.
    varies = variance[::-1][:3] > 1e-12 * max(variance[-1], np.finfo(float).tiny)
    varies &= high > low
    colors = np.where(varies, (scores - low) / np.where(varies, high - low, 1), 0.5)
    colors = np.pad(colors, ((0, 0), (0, 3 - colors.shape[1])), constant_values=0.5)
    return colors.clip(0, 1).reshape(*features.shape[:2], 3)


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
