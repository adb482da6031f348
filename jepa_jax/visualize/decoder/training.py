"""One step of training a decoder on a frozen model, and what it starts from."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from jepa_jax import ijepa
from jepa_jax.masks import Masks
from jepa_jax.models.vit import patchify, take_patches
from jepa_jax.optim import moving_average
from jepa_jax.visualize.decoder import flow
from jepa_jax.visualize.decoder.network import Network

SIDE = 64  # pixels of a drawn image at most
MOMENTUM = 0.998  # of the moving average of parameters, which draws
LEARNING_RATE = 1e-3
WARMUP = 50  # steps


@dataclasses.dataclass(frozen=True)
class Decoder:
    """What never changes in training.

    Attributes:
      model: the frozen one.
      side: pixels of a patch as it is drawn.
    """

    model: ijepa.IJEPA
    network: Network
    side: int

    @property
    def optimizer(self) -> optax.GradientTransformation:
        # The rate stays: a trained decoder may be trained on, and its average is what draws.
        rate = optax.linear_schedule(0.0, LEARNING_RATE, WARMUP)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-3))


class State(flax.struct.PyTreeNode):
    """What training changes, and the scale of the predictions, which it finds at its start."""

    step: Array  # () int32, finished steps
    params: Any
    average: Any  # of the parameters
    opt_state: optax.OptState
    mean: Array  # (D,) of pooled predictions
    std: Array  # (D,)


def drawn_side(image_size: tuple[int, int], patch_size: int) -> int:
    """Pixels of a patch as it is drawn: its own, or so few that the image has 64 at most."""
    patches = max(image_size) // patch_size
    fitting = [side for side in range(1, patch_size + 1) if patch_size % side == 0]
    return max((side for side in fitting if side * patches <= SIDE), default=1)


@functools.partial(jax.jit, static_argnums=0)
def pooled(model: ijepa.IJEPA, params: Any, batch: ijepa.Batch) -> Float[Array, "B M D"]:
    """What the predictor says of each block, averaged over its patches."""
    predicted = ijepa.predict(model, params, batch)
    return predicted.mean(axis=2, where=batch.masks.real[..., None])


def pixels(decoder: Decoder, images: Array) -> Float[Array, "B N F"]:
    """The pixels of each patch as the decoder draws them, normalised; F = side² · C."""
    patch, side = decoder.model.encoder.patch_size, decoder.side
    x = ijepa.normalize(decoder.model, images)
    batch, height, width, channels = x.shape
    fold = patch // side
    x = x.reshape(batch, height // fold, fold, width // fold, fold, channels).mean((2, 4))
    return patchify(x, side)


def init(decoder: Decoder, key: Array, predicted: Float[Array, "n D"]) -> State:
    """Parameters, and the scale of predictions.

    Args:
      predicted: of many blocks, by `pooled`.
    """
    patch, channels = jnp.zeros((1, 1), jnp.int32), len(decoder.model.mean)
    params = decoder.network.init(
        key,
        jnp.zeros((1, 1, decoder.side**2 * channels)),
        jnp.zeros(1),
        predicted[:1],
        patch,
        jnp.ones((1, 1), bool),
    )["params"]
    return State(
        step=jnp.int32(0),
        params=params,
        average=jax.tree.map(jnp.copy, params),
        opt_state=decoder.optimizer.init(params),
        mean=predicted.mean(0),
        std=jnp.maximum(predicted.std(0), 1e-8),
    )


def velocity(
    decoder: Decoder, params: Any, state: State, predicted: Float[Array, "B M D"], masks: Masks
) -> flow.Velocity:
    """Of the B·M blocks in a row."""
    condition = (predicted - state.mean[None, None]) / state.std[None, None]
    condition, patches, real = (
        x.reshape(-1, x.shape[-1]) for x in (condition, masks.targets, masks.real)
    )

    def at(x: Array, time: Array) -> Array:
        return decoder.network.apply({"params": params}, x, time, condition, patches, real)

    return at


def train_step(
    decoder: Decoder, frozen: Any, state: State, batch: ijepa.Batch, key: Array
) -> tuple[State, Array]:
    """One step on all blocks of a batch: the new state and the loss.

    Args:
      frozen: parameters of the model, {"encoder", "predictor"}.
    """
    masks = batch.masks
    predicted = pooled(decoder.model, frozen, batch)
    data = take_patches(pixels(decoder, batch.images), masks.targets)
    data = data.reshape(-1, *data.shape[2:])
    real = masks.real.reshape(data.shape[:2])

    def loss(params: Any) -> Array:
        return flow.loss(velocity(decoder, params, state, predicted, masks), key, data, real)

    value, gradient = jax.value_and_grad(loss)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32's power
        updates, opt_state = decoder.optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # At first a plain average: the random start would stay in it for long.
    passed = state.step.astype(jnp.float32)
    momentum = jnp.minimum(MOMENTUM, (1 + passed) / (10 + passed))
    average = moving_average(state.average, params, momentum)
    return state.replace(
        step=state.step + 1, params=params, average=average, opt_state=opt_state
    ), value
