"""A map of images: those with like features lie together."""

import os

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from sklearn.manifold import TSNE

from jepa_jax.errors import UserError
from jepa_jax.visualize import figures

SIDE = 7.0  # inches
THUMBNAIL = 0.3  # inches


class NoMap(UserError):
    """Images that no map can be made of."""


def tsne(features: Float[np.ndarray, "n D"], seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Places in 0..1 × 0..1 (t-SNE, van der Maaten & Hinton 2008, of scikit-learn).

    Neighbours mean something; distances between groups, and their sizes, do not.

    Raises:
      NoMap: for fewer than 5 images, or if their features are all the same.
    """
    if len(features) < 5:
        raise NoMap(f"a map of {len(features)} images says nothing: give 5 or more")
    if not np.ptp(features, axis=0).any():
        raise NoMap("the features of all images are the same, which have no map")
    perplexity = min(30.0, (len(features) - 1) / 3)
    places = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(features)
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-12)


def without_overlap(places: Float[np.ndarray, "n 2"], distance: float) -> Int[np.ndarray, "k"]:
    """The images, in their order, that come no nearer than this to one before, either way."""
    kept: list[int] = []
    for i, place in enumerate(places):
        if not kept or np.abs(places[kept] - place).max(-1).min() >= distance:
            kept.append(i)
    return np.array(kept, int)


def feature_map(
    images: UInt8[np.ndarray, "n H W C"],
    places: Float[np.ndarray, "n 2"],
    path: str | os.PathLike,
    labels: Int[np.ndarray, "n"] | None = None,
    classes: tuple[str, ...] | None = None,
) -> None:
    """Draws every image as a dot, and as many as there is room for as thumbnails.

    Args:
      places: of `tsne`.
      labels: colours of dots and frames; not what the places were made of.
      classes: their names, for the legend.
    """
    pixels = figures.as_rgb(images)
    fig = figures.figure(SIDE, SIDE)
    axis = fig.subplots()
    axis.set_axis_off()
    axis.set_xlim(-0.04, 1.04)
    axis.set_ylim(-0.04, 1.04)
    colors = np.full((len(pixels), 4), 0.6)
    if labels is not None:
        number = int(labels.max()) + 1
        palette = colormaps["tab10" if number <= 10 else "tab20"]
        colors = palette(labels % palette.N)
    axis.scatter(*places.T, s=6, color=colors)
    zoom = THUMBNAIL * 72 / max(pixels.shape[1:3])  # points a pixel
    for i in without_overlap(places, 1.15 * THUMBNAIL / SIDE * 1.08):
        thumbnail = OffsetImage(pixels[i], zoom=zoom, interpolation="antialiased")
        frame = {"edgecolor": colors[i], "linewidth": 1.5}
        axis.add_artist(AnnotationBbox(thumbnail, places[i], pad=0.1, bboxprops=frame))
    if labels is not None and classes and len(classes) <= 20:
        handles = [
            Line2D([], [], marker="o", linestyle="", color=palette(k), label=name)
            for k, name in enumerate(classes)
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figures.save(fig, path)
