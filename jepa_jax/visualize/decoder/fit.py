"""Trains a decoder on a frozen model, and goes on where it was stopped."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich.console import Console

from jepa_jax import ijepa, masks
from jepa_jax.config import mask_spec
from jepa_jax.console import progress_bar, say
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import Source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import digest
from jepa_jax.training.checksums import checksums
from jepa_jax.visualize.decoder import store
from jepa_jax.visualize.decoder.network import Network
from jepa_jax.visualize.decoder.training import Decoder, State, drawn_side, init, pooled, train_step
from jepa_jax.visualize.trained import Trained

PURPOSES = ("init", "masks", "flow", "drawing")
SCALE_BATCHES = 8  # whose predictions set the scale
LOG_EVERY, SAVE_EVERY = 100, 500  # steps

_pooled, _init = (jax.jit(function, static_argnums=0) for function in (pooled, init))
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
    learning_rate: float = 1e-3
    seed: int = 0


def key_of(seed: int, purpose: str, step: int = 0) -> jax.Array:
    """A random key for one use of randomness at one step."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose)), step
    )


def new_decoder(trained: Trained, settings: Settings) -> Decoder:
    config = trained.config
    network = Network(
        trained.model.predictor.grid,
        settings.width,
        settings.depth,
        heads=max(1, settings.width // 32),
    )
    side = drawn_side(tuple(config.data.image_size), config.model.patch_size)
    return Decoder(trained.model, network, side, settings.learning_rate)


def fit(
    trained: Trained, source: Source, settings: Settings, folder: epath.Path, console: Console
) -> tuple[Decoder, State]:
    """A decoder after `settings.steps`, which lies in the folder too.

    Images are whole, or cut to the proportions of the model's, as those are that are drawn later;
    masks are as in pre-training. The batch of a step depends on seed and step alone, so that a
    training that was stopped comes to the same end.

    Raises:
      UserError: if the folder holds another decoder, or one that is damaged.
    """
    decoder = new_decoder(trained, settings)
    about = _about(trained, settings)
    batches = _Batches(trained, source, settings)
    frozen = jax.device_put(trained.params)
    state = store.load(folder, about, _shapes(decoder, trained))
    state = jax.device_put(state) if state else _start(decoder, frozen, batches, settings.seed)
    first, losses = int(state.step), []
    bar = progress_bar(console, "step")
    with contextlib.closing(batches.iterate(first)) as coming, bar:
        task = bar.add_task("", total=settings.steps, completed=first, values="compiling")
        for step, batch in zip(range(first, settings.steps), coming, strict=False):
            key = key_of(settings.seed, "flow", step)
            state, loss = _train_step(decoder, frozen, state, batch, key)
            losses.append(loss)
            done, ends = step + 1, step + 1 == settings.steps
            if done % LOG_EVERY == 0 or ends:
                value, losses = float(np.mean(jax.device_get(losses))), []
                if not math.isfinite(value):
                    raise UserError(f"the decoder diverged before step {done}: take another --seed")
                bar.update(task, completed=done, values=f"loss {value:.4f}")
                if not console.is_terminal:
                    say(console, f"step {done}/{settings.steps}  loss {value:.4f}")
            if done % SAVE_EVERY == 0 or ends:
                store.save(folder, jax.device_get(state), about)
    return decoder, state


class _Batches:
    """Images and masks by step."""

    def __init__(self, trained: Trained, source: Source, settings: Settings):
        data = trained.config.data.copy_and_resolve_references()
        height, width = data.image_size
        data.update(crop_scale=(1.0, 1.0), crop_aspect=(width / height,) * 2)
        self._images = TrainBatches(
            source, data, seed=settings.seed, batch_size=settings.batch_size
        )
        self._spec, self._seed = mask_spec(trained.config), settings.seed

    def __getitem__(self, step: int) -> ijepa.Batch:
        return self._masked(self._images[step]["images"], step)

    def iterate(self, first: int) -> Generator[ijepa.Batch]:
        with contextlib.closing(self._images.iterate(first)) as found:
            for step, batch in enumerate(found, first):
                yield self._masked(batch["images"], step)

    def _masked(self, images: np.ndarray, step: int) -> ijepa.Batch:
        drawn = masks.sample(key_of(self._seed, "masks", step), self._spec, len(images))
        return jax.device_put(ijepa.Batch(images, drawn))


def _start(decoder: Decoder, frozen: Any, batches: _Batches, seed: int) -> State:
    seen = [_pooled(decoder.model, frozen, batches[step]) for step in range(SCALE_BATCHES)]
    predicted = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in seen])
    return _init(decoder, key_of(seed, "init"), predicted)


def _shapes(decoder: Decoder, trained: Trained) -> State:
    predicted = jax.ShapeDtypeStruct((1, trained.model.encoder.width), jnp.float32)
    return jax.eval_shape(functools.partial(init, decoder), jax.random.key(0), predicted)


def _about(trained: Trained, settings: Settings) -> dict[str, Any]:
    """What makes another decoder."""
    model = [repr(trained.model), trained.config.masks.to_json(), checksums(trained.params)]
    asked = dataclasses.asdict(settings)
    del asked["steps"]  # it may be trained on
    return {"model": digest(model), **asked}
