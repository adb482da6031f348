"""How well sketches agree with the images that their blocks were cut from."""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, UInt8

from jepa_jax.masks import Masks
from jepa_jax.visualize.decoder.sketches import Artist
from jepa_jax.visualize.figures import as_image, on_image

BATCH = 32  # images that are drawn at once


class Agreement(NamedTuple):
    """Means over all blocks; pixels in 0..1.

    Attributes:
      error: mean square distance of the mean of a block's sketches from the block.
      error_other: the same where the predictor saw another image's context, at the same places.
      error_mean: the same for the mean of all images, which knows the place and no image.
      nearer: share of the blocks to which the sketches from their own image are the nearer ones.
      seam: mean difference of neighbouring pixels across the block's edge, the sketch on one side.
      seam_other: the same, with the sketches from another image.
      seam_real: the same for the image itself.
      told: share of the variance of predictions that is between images and not between places; of
        a predictor that says the same whatever it sees it is 0.
      spread: standard deviation of a pixel over the sketches of a block.
    """

    error: float
    error_other: float
    error_mean: float
    nearer: float
    seam: float
    seam_other: float
    seam_real: float
    spread: float
    told: float


def agreement(
    artist: Artist, images: UInt8[np.ndarray, "n H W C"], masks: Masks, samples: int, key: Array
) -> Agreement:
    """Draws so many sketches of each target block, from its own image and from the next one."""
    others = np.roll(images, 1, axis=0)
    usual = artist.real(images).mean(0)
    found = []
    for number, start in enumerate(range(0, len(images), BATCH)):
        part = slice(start, start + BATCH)
        some = Masks(*(x[part] for x in masks))
        keys = jax.random.split(jax.random.fold_in(key, number))
        own, other = (
            artist.draw(seen[part], some, samples, each)
            for seen, each in zip((images, others), keys, strict=True)
        )
        told = _told(artist, *(x[part] for x in (images, others)), some)
        for i, real in enumerate(artist.real(images[part])):
            for m, length in enumerate(some.target_length[i]):
                index = some.targets[i, m, :length]
                sketches = own[:, i, m, :length], other[:, i, m, :length]
                found.append((*_of_block(artist, real, usual, index, *sketches), told[i, m]))
    return Agreement(*np.mean(found, axis=0).tolist())


def _told(artist: Artist, images: np.ndarray, others: np.ndarray, masks: Masks) -> np.ndarray:
    own, other = (artist.predicted(seen, masks) for seen in (images, others))
    # The variance of a number is half the mean square of the difference of two.
    total = np.square(np.asarray(artist.state.std)).sum()
    return np.square(own - other).sum(-1) / (2 * total)


def _of_block(artist, real, usual, index, own, other) -> tuple[float, ...]:
    def error(drawn):
        return np.square(drawn - real[index]).mean()

    grid, channels = artist.decoder.network.grid, len(artist.decoder.model.mean)
    inside = np.zeros(real.shape, bool)
    inside[index] = True
    inside = as_image(inside, grid, channels)[..., 0]
    seams = [
        np.mean([seam(on_image(real, index, each, grid, channels), inside) for each in drawn])
        for drawn in (own, other, real[index][None])
    ]
    errors = error(own.mean(0)), error(other.mean(0)), error(usual[index])
    return *errors, errors[0] < errors[1], *seams, own.std(0).mean()


def seam(image: Float[np.ndarray, "H W C"], inside: Bool[np.ndarray, "H W"]) -> np.floating:
    """Mean difference of neighbouring pixels of which one is inside and one is not."""
    steps = [np.abs(np.diff(image, axis=axis)).mean(-1) for axis in (0, 1)]
    across = [np.diff(inside, axis=axis) for axis in (0, 1)]
    return np.concatenate([step[edge] for step, edge in zip(steps, across, strict=True)]).mean()
