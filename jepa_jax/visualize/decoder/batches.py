"""What a decoder is trained on, and the random keys of all that it does."""

import contextlib
from collections.abc import Generator

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa, masks
from jepa_jax.config import mask_spec
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import Source
from jepa_jax.errors import UserError
from jepa_jax.training.setup import purpose_key


def key_of(seed: int, purpose: str, step: int = 0) -> jax.Array:
    """A random key for one use of randomness at one step."""
    return jax.random.fold_in(purpose_key(seed, purpose), step)


class Batches:
    """Images and masks, a pure function of seed and step.

    Images are whole, or cut to the proportions of the model's, as those are that are drawn later;
    masks are as in pre-training.

    Raises:
      UserError: if the source is shorter than a batch.
    """

    def __init__(self, config: ConfigDict, source: Source, seed: int, batch_size: int):
        if len(source) < batch_size:
            raise UserError(
                f"the source has {len(source)} images, fewer than a batch: set --batch_size, now"
                f" {batch_size}, to {len(source)} or less"
            )
        data = config.data.copy_and_resolve_references()
        height, width = data.image_size
        data.update(crop_scale=(1.0, 1.0), crop_aspect=(width / height,) * 2)
        self._images = TrainBatches(source, data, seed=seed, batch_size=batch_size)
        self._spec, self._seed = mask_spec(config), seed

    def __getitem__(self, step: int) -> ijepa.Batch:
        return self._masked(self._images[step]["images"], step)

    def iterate(self, first: int) -> Generator[ijepa.Batch]:
        with contextlib.closing(self._images.iterate(first)) as found:
            for step, batch in enumerate(found, first):
                yield self._masked(batch["images"], step)

    def _masked(self, images: np.ndarray, step: int) -> ijepa.Batch:
        drawn = masks.sample(key_of(self._seed, "masks", step), self._spec, len(images))
        return jax.device_put(ijepa.Batch(images, drawn))
