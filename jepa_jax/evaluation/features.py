"""Frozen features of images: of an encoder's last layer or layers, or the pixels themselves."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32, Int32
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.data.loader import evaluation_batches
from jepa_jax.data.protocol import Indices, Source
from jepa_jax.data.transforms import EvalView
from jepa_jax.parallel.sharding import batch_parts, batch_sharding, process_share

BATCH = 256  # images; features do not depend on it
PIXEL_SIDE = 32  # larger images are shrunk to it before their pixels serve as features


class Features(NamedTuple):
    """What is known of n images; the same on all processes."""

    values: Float32[np.ndarray, "n ..."]
    index: Int32[np.ndarray, " n"]  # which examples of the source they are


class Rows(NamedTuple):
    """What is known of the images of a batch; the same on all processes."""

    values: Float32[np.ndarray, "b ..."]
    index: Int32[np.ndarray, " b"]
    place: Int32[np.ndarray, " b"]  # where in the indices that were asked for they are


@dataclasses.dataclass(frozen=True)
class Encode:
    """Images (B, H, W, C) to features: (B, D), the average over patches, as the paper evaluates
    (appendix A.2), or of every patch, (B, N, D).

    Attributes:
      model: what has an `encoder`, and `mean` and `std` of its images: IJEPA or Backbone.
      layers: so many of the last ones side by side, the last one at the end, each after the
        final norm.
    """

    model: Any
    layers: int = 1
    patches: bool = False

    def __call__(self, params: Any, images: Array) -> Array:
        features = ijepa.encode(self.model, params, images, layers=self.layers)
        features = features.astype(jnp.float32)
        return features if self.patches else features.mean(axis=1)


def pixels_in_a_row(params: Any, images: Array) -> Array:
    """Images (B, H, W, C) to (B, F), in 0..1: what any encoder should be better than.

    Args: params: none, `()`.
    """
    pixels = images.astype(jnp.float32) / 255.0
    count, height, width, channels = pixels.shape
    if max(height, width) > PIXEL_SIDE:
        pixels = jax.image.resize(pixels, (count, PIXEL_SIDE, PIXEL_SIDE, channels), "linear")
    return pixels.reshape(count, -1)


def mesh_batches(
    source: Source,
    data: ConfigDict,
    index: Indices,
    mesh: jax.sharding.Mesh,
    *,
    view: EvalView | None = None,
    size: int = BATCH,
) -> Iterator[dict]:
    """This process's share of batches of `evaluation_batches`.

    Args:
      size: of a batch, or a few more where devices must share them.
    """
    parts = batch_parts(mesh)
    size = parts * math.ceil(size / parts)
    return evaluation_batches(source, data, size, index, shard=process_share(mesh), view=view)


def stream(
    function: Callable[[Any, Array], Array],
    params: Any,
    batches: Iterable[dict],
    mesh: jax.sharding.Mesh,
) -> Iterator[Rows]:
    """`function(params, images)` of each batch, without what fills up the last one.

    Args:
      function: is compiled; one that is equal to it is not compiled again.
      batches: of `mesh_batches`.
    """
    with jax.set_mesh(mesh):
        sent = (_look(function, params, *_spread(batch, mesh)) for batch in batches)
        for found in _one_ahead(sent):
            rows = Rows(*jax.device_get(found))
            yield Rows(*(part[rows.place >= 0] for part in rows))


def collect(rows: Iterable[Rows]) -> Features:
    """All of them, in order: a mesh may mix the rows of a batch."""
    values, index, place = map(np.concatenate, zip(*rows, strict=True))
    order = np.argsort(place)
    return Features(values[order], index[order])


def _spread(batch: dict, mesh: jax.sharding.Mesh) -> Iterator[Array]:
    rows = batch["images"], *(batch[key].astype(np.int32) for key in ("index", "place"))
    for part in rows:
        yield jax.make_array_from_process_local_data(batch_sharding(mesh), part)


def _one_ahead(items: Iterable) -> Iterator:
    """The same, each when the next is under way: devices compute while results are fetched."""
    waiting = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


@partial(jax.jit, static_argnums=0)
def _look(function, params, images, index, place):
    """On every device, so that each process has all."""
    features = function(params, images)
    return jax.lax.with_sharding_constraint((features, index, place), P())
