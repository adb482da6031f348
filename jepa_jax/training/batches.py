"""Batches of images and masks on the devices, for each step from a given one on."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext

import jax
import numpy as np
from jax.sharding import NamedSharding

from jepa_jax import masks
from jepa_jax.data.broken import Broken
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
    broken: Broken,
    draws: int = 1,
    waiting: Callable[[], AbstractContextManager] = nullcontext,
) -> Iterator[Batch]:
    """Endless; what a step gets depends on the seed and the step alone.

    The next batch is on its way to the devices while they work on one before it, since steps are
    sent off ahead, except to a CPU (`jepa_jax.parallel.host_memory`).

    Args:
      draws: masks of each image.
      waiting: is entered while images are waited for.
    """
    with masks.on_host():
        seed_key = purpose_key(seed, "masks")
    with closing(loader.iterate(start)) as images:
        for step in itertools.count(start):
            with waiting():
                batch = next(images)
            broken.note(batch, step + 1)  # as steps are counted when they are done
            with masks.on_host():
                key = jax.random.fold_in(seed_key, step)
            drawn = masks.sample(key, spec, loader.local_size, start=loader.first_row, draws=draws)
            yield to_devices(Batch(batch["images"], drawn), sharding)


def to_devices(batch: Batch, sharding: NamedSharding) -> Batch:
    """On a CPU it is there at once: a step that waits for it does not run in the main thread."""
    placed = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )
    on_cpu = sharding.mesh.devices.flat[0].platform == "cpu"
    return jax.block_until_ready(placed) if on_cpu else placed
