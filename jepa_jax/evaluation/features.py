"""Frozen features of images: the target encoder's patches, averaged."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Int32

from jepa_jax import ijepa
from jepa_jax.parallel.sharding import batch_sharding

PIXEL_SIDE = 32  # larger images are shrunk to it before their pixels serve as features


class Features(NamedTuple):
    """What is known of n images; the same on all processes."""

    values: Float32[np.ndarray, "n ..."]
    index: Int32[np.ndarray, " n"]  # which examples of the source they are


def pooled_features(
    model: ijepa.IJEPA, params: Any, batches: Iterable[dict], mesh: jax.sharding.Mesh
) -> Features:
    """The average of an image's patch features (n, D), as the paper evaluates (appendix A.2).

    Args:
      params: of an encoder; the paper takes the target encoder's.
      batches: of `evaluation_batches`, with the share of `process_share(mesh)`.
      mesh: over which the batches are split.
    """
    return _collect(_pooled, model, params, batches, mesh)


def patch_features(
    model: ijepa.IJEPA, params: Any, batches: Iterable[dict], mesh: jax.sharding.Mesh
) -> Features:
    """Every patch's features (n, N, D)."""
    return _collect(_patches, model, params, batches, mesh)


def pixel_features(batches: Iterable[dict], mesh: jax.sharding.Mesh) -> Features:
    """The pixels themselves (n, F), what any encoder should be better than."""
    return _collect(_pixels, None, (), batches, mesh)


def _collect(
    function: Callable, model: Any, params: Any, batches: Iterable[dict], mesh: jax.sharding.Mesh
) -> Features:
    found = []
    with jax.set_mesh(mesh):
        for batch in batches:
            rows = batch["images"], *(batch[key].astype(np.int32) for key in ("index", "place"))
            rows = (
                jax.make_array_from_process_local_data(batch_sharding(mesh), part) for part in rows
            )
            found.append(jax.device_get(_look(function, model, params, *rows)))
    values, index, place = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(place)[np.sum(place < 0) :]  # a mesh may mix the rows of a batch
    return Features(values[order], index[order])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _look(function, model, params, images, index, place):
    """On every device, so that each process has all."""
    features = function(model, params, images)
    return jax.lax.with_sharding_constraint((features, index, place), P())


def _patches(model, params, images):
    return ijepa.encode(model, params, images).astype(np.float32)


def _pooled(model, params, images):
    return _patches(model, params, images).mean(axis=1)


def _pixels(model, params, images):
    pixels = images.astype(np.float32) / 255.0
    count, height, width, channels = pixels.shape
    if max(height, width) > PIXEL_SIDE:
        pixels = jax.image.resize(pixels, (count, PIXEL_SIDE, PIXEL_SIDE, channels), "linear")
    return pixels.reshape(count, -1)
