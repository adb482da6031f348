"""Batches of images and masks on the devices, for each step from a given one on."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from jepa_jax import masks
from jepa_jax.data.loader import TrainBatches
from jepa_jax.ijepa import Batch
from jepa_jax.training.setup import purpose_key


def train_batches(
    loader: TrainBatches,
    spec: masks.MaskSpec,
    *,
    seed: int,
    start: int,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """Endless; what a step gets depends on the seed and the step alone."""
    with masks.on_host():
        seed_key = purpose_key(seed, "masks")
    images = loader.iterate(start)
    try:
        for step, batch in enumerate(images, start):
            with masks.on_host():
                key = jax.random.fold_in(seed_key, step)
            drawn = masks.sample(key, spec, len(batch["images"]))
            yield _to_devices(Batch(batch["images"], drawn), sharding)
    finally:
        images.close()


def _to_devices(batch: Batch, sharding: NamedSharding) -> Batch:
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )
