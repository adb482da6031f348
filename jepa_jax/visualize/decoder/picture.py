"""Sketches, drawn into the images that their blocks were cut from."""

import os
from collections.abc import Mapping

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from jepa_jax.masks import Masks
from jepa_jax.visualize import figures
from jepa_jax.visualize.decoder.sketches import Artist
from jepa_jax.visualize.masks import context_only, outline

BLOCKS = 2  # of an image that are shown


def sketch_overview(
    artists: Mapping[str, Artist],
    images: UInt8[np.ndarray, "n H W C"],
    masks: Masks,
    samples: int,
    key: Array,
    path: str | os.PathLike,
) -> None:
    """Draws a row for each of two blocks an image: image, context, and sketches by each artist.

    The block is outlined; the context is all that the predictor knew. Of an image's blocks those
    are shown in which there is most to see: of the largest spread of pixels.

    Args:
      artists: by the name that stands above their sketches.
    """
    first = next(iter(artists.values()))
    grid, channels = first.decoder.network.grid, len(first.decoder.model.mean)
    real = first.real(images)
    drawn = {name: each.draw(images, masks, samples, key) for name, each in artists.items()}
    shown = [(i, m) for i in range(len(images)) for m in _busiest(real[i], masks, i)]
    titles = ["image", "context", *(name for name in artists for _ in range(samples))]
    size = figures.as_image(real[0], grid, channels).shape[:2]
    fig, axes = figures.panels(len(shown), titles, aspect=size[0] / size[1])
    for row, (i, m) in zip(axes, shown, strict=True):
        index = masks.targets[i, m, : masks.target_length[i, m]]
        whole = figures.three_channels(figures.as_image(real[i], grid, channels))
        figures.show(row[0], whole, size)
        figures.show(row[1], context_only(whole, masks.context[i], grid), size)
        sketches = [sketch[i, m, : len(index)] for each in drawn.values() for sketch in each]
        for axis, sketch in zip(row[2:], sketches, strict=True):
            drawn_in = figures.on_image(real[i], index, sketch, grid, channels)
            figures.show(axis, figures.three_channels(drawn_in), size)
        for axis in row:
            outline(axis, index, grid, size, figures.MARK, 0.8)
    figures.save(fig, path)


def _busiest(real: Float[np.ndarray, "N F"], masks: Masks, image: int) -> list[int]:
    """The blocks in which there is most to see; of those at one place, one."""
    blocks = {}
    for m, length in enumerate(masks.target_length[image].tolist()):
        blocks.setdefault(tuple(masks.targets[image, m, :length].tolist()), m)
    busiest = sorted(blocks, key=lambda index: real[list(index)].std(), reverse=True)
    return sorted(blocks[index] for index in busiest[:BLOCKS])
