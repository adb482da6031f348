"""Trains a decoder on a frozen model, and goes on where it was stopped."""

import contextlib
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.console import Console

from jepa_jax.config import mask_spec
from jepa_jax.console import progress_bar, say
from jepa_jax.data.sources import Source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import digest
from jepa_jax.training.checksums import checksums
from jepa_jax.training.signals import StopWish
from jepa_jax.visualize.decoder import store
from jepa_jax.visualize.decoder.batches import Batches, key_of
from jepa_jax.visualize.decoder.network import Network
from jepa_jax.visualize.decoder.training import Decoder, State, drawn_side, init, pooled, train_step
from jepa_jax.visualize.trained import Trained

SCALE_BATCHES = 8  # whose predictions set the scale
LOG_EVERY, SAVE_EVERY = 100, 500  # steps

_init = jax.jit(init, static_argnums=0)
_train_step = jax.jit(train_step, static_argnums=0, donate_argnums=2)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a decoder's training.

    Attributes:
      steps: to train; more of them take a finished decoder on.
      batch_size: images a step, each with all its target blocks.
      width, depth: of the decoder's transformer.
    """

    steps: int = 2000
    batch_size: int = 32
    width: int = 96
    depth: int = 3
    seed: int = 0


def new_decoder(trained: Trained, settings: Settings) -> Decoder:
    config = trained.config
    network = Network(
        trained.model.predictor.grid,
        settings.width,
        settings.depth,
        heads=max(1, settings.width // 32),
    )
    side = drawn_side(tuple(config.data.image_size), config.model.patch_size)
    return Decoder(trained.model, network, side)


def fit(
    trained: Trained,
    source: Source,
    settings: Settings,
    folder: epath.Path,
    console: Console,
    stop: StopWish | bool = False,
) -> tuple[Decoder, State]:
    """A decoder after `settings.steps`, or fewer if it is to stop, which lies in the folder too.

    What a step does depends on seed and step alone, so that a training that was stopped comes to
    the same end.

    Args:
      stop: is looked at after each step.

    Raises:
      UserError: if the folder holds another decoder, one of more steps, or one that is damaged.
    """
    decoder = new_decoder(trained, settings)
    about = _about(trained, settings)
    batches = Batches(trained.config, source, settings.seed, settings.batch_size)
    frozen = jax.device_put(trained.params)
    state = store.load(folder, about, _shapes(decoder, trained))
    state = jax.device_put(state) if state else _start(decoder, frozen, batches, settings.seed)
    first, losses = int(state.step), []
    if first > settings.steps:
        raise UserError(
            f"{folder} holds a decoder of {first} steps: set --steps to {first} or more"
        )
    bar = progress_bar(console, "step")
    with contextlib.closing(batches.iterate(first)) as coming, bar:
        task = bar.add_task("", total=settings.steps, completed=first, values="compiling")
        for step, batch in zip(range(first, settings.steps), coming, strict=False):
            key = key_of(settings.seed, "flow", step)
            state, loss = _train_step(decoder, frozen, state, batch, key)
            losses.append(loss)
            done = step + 1
            ends = done == settings.steps or bool(stop)
            if done % LOG_EVERY == 0 or ends:
                value, losses = float(np.mean(jax.device_get(losses))), []
                if not math.isfinite(value):
                    raise UserError(f"the decoder diverged before step {done}: take another --seed")
                bar.update(task, completed=done, values=f"loss {value:.4f}")
                if not console.is_terminal:
                    say(console, f"step {done}/{settings.steps}  loss {value:.4f}")
            if done % SAVE_EVERY == 0 or ends:
                store.save(folder, jax.device_get(state), about)
            if ends:
                break
    return decoder, state


def _start(decoder: Decoder, frozen: Any, batches: Batches, seed: int) -> State:
    seen = [pooled(decoder.model, frozen, batches[step]) for step in range(SCALE_BATCHES)]
    predicted = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in seen])
    return _init(decoder, key_of(seed, "init"), predicted)


def _shapes(decoder: Decoder, trained: Trained) -> State:
    predicted = jax.ShapeDtypeStruct((1, trained.model.encoder.width), jnp.float32)
    return jax.eval_shape(functools.partial(init, decoder), jax.random.key(0), predicted)


def _about(trained: Trained, settings: Settings) -> dict[str, Any]:
    """What makes another decoder."""
    model = [repr(mask_spec(trained.config)), checksums(trained.params)]
    asked = dataclasses.asdict(settings)
    del asked["steps"]  # it may be trained on
    return {"model": digest(model), **asked}
