"""Frozen features of images: the target encoder's patches, averaged."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from jepa_jax import ijepa

PIXEL_SIDE = 32  # larger images are shrunk to it before their pixels serve as features


def pooled_features(
    model: ijepa.IJEPA, params: Any, batches: Iterable[dict]
) -> Float32[np.ndarray, "n D"]:
    """The average of an image's patch features, as the paper evaluates (appendix A.2).

    Args:
      params: of an encoder; the paper takes the target encoder's.
      batches: of `evaluation_batches`.
    """
    return _collect(functools.partial(_pooled, model, params), batches)


def patch_features(
    model: ijepa.IJEPA, params: Any, batches: Iterable[dict]
) -> Float32[np.ndarray, "n N D"]:
    """Every patch's features."""
    return _collect(functools.partial(_patches, model, params), batches)


def pixel_features(batches: Iterable[dict]) -> Float32[np.ndarray, "n F"]:
    """The pixels themselves, what any encoder should be better than."""
    return _collect(_pixels, batches)


def _collect(function, batches: Iterable[dict]) -> np.ndarray:
    return np.concatenate(
        [np.asarray(function(batch["images"]))[: batch["count"]] for batch in batches]
    )


@functools.partial(jax.jit, static_argnums=0)
def _patches(model, params, images):
    return ijepa.encode(model, params, images).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(model, params, images):
    return ijepa.encode(model, params, images).astype(np.float32).mean(axis=1)


@jax.jit
def _pixels(images):
    pixels = images.astype(np.float32) / 255.0
    count, height, width, channels = pixels.shape
    if max(height, width) > PIXEL_SIDE:
        pixels = jax.image.resize(pixels, (count, PIXEL_SIDE, PIXEL_SIDE, channels), "linear")
    return pixels.reshape(count, -1)
