"""Sketches of blocks by a trained decoder."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from jepa_jax import ijepa
from jepa_jax.masks import Masks
from jepa_jax.visualize.decoder import flow
from jepa_jax.visualize.decoder.training import Decoder, State, pixels, pooled, velocity

STEPS = 16  # from noise to a sketch


@dataclasses.dataclass(frozen=True)
class Artist:
    """A trained decoder beside the model that it draws for."""

    decoder: Decoder
    frozen: Any  # parameters of the model
    state: State

    def draw(
        self, images: UInt8[np.ndarray, "n H W C"], masks: Masks, samples: int, key: Array
    ) -> Float[np.ndarray, "S n M P F"]:
        """So many sketches of each target block, in pixels of 0..1.

        They depend on the image through the predictor's word on the block alone.
        """
        batch = ijepa.Batch(jnp.asarray(images), jax.tree.map(jnp.asarray, masks))
        keys = jax.random.split(key, samples)
        drawn = [_draw(self.decoder, self.frozen, self.state, batch, each) for each in keys]
        return np.stack(jax.device_get(drawn))

    def predicted(
        self, images: UInt8[np.ndarray, "n H W C"], masks: Masks
    ) -> Float[np.ndarray, "n M D"]:
        """The predictor's word on each target block, averaged over its patches."""
        batch = ijepa.Batch(jnp.asarray(images), jax.tree.map(jnp.asarray, masks))
        return np.asarray(pooled(self.decoder.model, self.frozen, batch))

    def real(self, images: UInt8[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n N F"]:
        """The pixels of all patches, in 0..1, at the size in which it draws."""
        real = pixels(self.decoder, jnp.asarray(images))
        return np.asarray(jnp.clip(_visible(self.decoder, real), 0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _draw(decoder: Decoder, frozen: Any, state: State, batch: ijepa.Batch, key: Array) -> Array:
    predicted = pooled(decoder.model, frozen, batch)
    images, blocks, patches = batch.masks.targets.shape
    values = decoder.side**2 * batch.images.shape[-1]
    noise = jax.random.normal(key, (images * blocks, patches, values))
    at = velocity(decoder, state.average, state, predicted, batch.masks)
    drawn = flow.sample(at, noise, STEPS).reshape(images, blocks, patches, values)
    return jnp.clip(_visible(decoder, drawn), 0, 1)


def _visible(decoder: Decoder, patches: Float[Array, "... F"]) -> Float[Array, "... F"]:
    """Normalised pixels -> 0..1."""
    repeat = patches.shape[-1] // len(decoder.model.mean)
    mean, std = (
        jnp.tile(jnp.asarray(value, jnp.float32), repeat).reshape(*[1] * (patches.ndim - 1), -1)
        for value in (decoder.model.mean, decoder.model.std)
    )
    return patches * std + mean
