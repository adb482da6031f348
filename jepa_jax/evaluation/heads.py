"""Heads on frozen features of patches: AdamW at several learning rates at once, and a choice.

The learning rate is chosen on held-out training images; the head that counts is then trained with
it on all of them. Features may lie on disk: only a batch of them is in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_options
from jepa_jax.evaluation.splits import held_out
from jepa_jax.optim import AdamW, Schedule

WARMUP = 0.05  # of the steps
ADAMW = AdamW()
PURPOSES = ("init", "order")  # of randomness


@dataclass(frozen=True)
class Recipe:
    """How heads are trained.

    Attributes:
      learning_rates: that are tried, at the end of the warm-up; from there a cosine to 0.
      layers: how many of the last ones heads see, side by side.
    """

    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    weight_decay: float = 0.05
    epochs: int = 20
    batch_size: int = 256
    layers: int = 1

    def __post_init__(self):
        numbers = "learning_rates", "epochs", "batch_size", "layers"
        check_options(
            self, some=("learning_rates",), positive=numbers, not_negative=("weight_decay",)
        )


@dataclass(frozen=True)
class Problem:
    """What a head is and is for; equal ones are compiled once.

    Attributes:
      head: standardised features (B, N, D) -> predictions (B, ...).
      loss: (predictions, targets) -> the batch's mean.
      tally: (predictions, targets) -> counts, which are summed over batches.
      score: these sums -> a share in 0..1, the higher the better.
    """

    head: nn.Module
    loss: Callable[[Array, Array], Array]
    tally: Callable[[Array, Array], Array]
    score: Callable[[np.ndarray], float]


class Examples(NamedTuple):
    """Images of a split."""

    features: Float[np.ndarray, "n N D"]
    targets: Int[np.ndarray, "n ..."]


class Point(NamedTuple):
    """How far a head is after an epoch."""

    epoch: int
    loss: float  # the epoch's average
    score: float  # on the test images


class Trained(NamedTuple):
    """What came out.

    Attributes:
      held_out: of each learning rate, the score on held-out training images.
      chosen: the best of them by that.
      tally: counts of the head that was trained on all images, on the test images.
    """

    held_out: dict[float, float]
    chosen: float
    curve: list[Point]
    tally: np.ndarray


def train_heads(
    problem: Problem,
    train: Examples,
    test: Examples,
    recipe: Recipe,
    *,
    seed: int = 0,
    tell: Callable[[Point], None] = lambda point: None,
) -> Trained:
    """Trains a head for each learning rate, chooses one, and trains it on all images.

    Args:
      tell: is called after each epoch of the last training.

    Raises:
      UserError: features are not finite or do not go with the targets.
    """
    _check(train, test)
    moments = _moments(train.features)
    everything = np.arange(len(train.features))
    apart = held_out(len(everything), seed)
    start = _init(problem, train.features.shape[1:], seed)
    run = partial(_train, problem, train, start, moments=moments, recipe=recipe, seed=seed)
    scores = dict.fromkeys(recipe.learning_rates, 0.0)
    if len(scores) > 1:
        *_, (params, _) = run(everything[~apart], rates=tuple(scores))
        size = recipe.batch_size
        tallies = _tallies(problem, params, train, everything[apart], moments, size)
        scores = dict(zip(scores, map(problem.score, tallies), strict=True))
    chosen = max(scores, key=scores.get)
    curve = []
    for epoch, (params, loss) in enumerate(run(everything, rates=(chosen,)), 1):
        rows = np.arange(len(test.features))
        (tally,) = _tallies(problem, params, test, rows, moments, recipe.batch_size)
        curve.append(Point(epoch, float(loss[0]), problem.score(tally)))
        tell(curve[-1])
    return Trained(scores if len(scores) > 1 else {}, chosen, curve, tally)


def _init(problem: Problem, shape: tuple[int, int], seed: int) -> Any:
    key = jax.random.fold_in(jax.random.key(seed), PURPOSES.index("init"))
    return jax.jit(problem.head.init)(key, jnp.zeros((1, *shape)))["params"]


def _train(problem: Problem, examples: Examples, start, rows, *, rates, moments, recipe, seed):
    """Yields, after each epoch, the parameters of the heads and their average losses."""
    size = min(recipe.batch_size, len(rows))
    steps = len(rows) // size
    # All start alike: what becomes of one does not depend on the others.
    params = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(rates), axis=0), start)
    state = jax.vmap(ADAMW.init)(params)
    schedule = _schedule(recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        order = _rng(seed, "order", epoch).permutation(rows)
        losses = []
        for step in range(steps):
            batch = np.sort(order[step * size : (step + 1) * size])  # neighbours on disk together
            params, state, loss = _step(
                *(problem, recipe.weight_decay, params, state, moments),
                np.float32(rates) * schedule[epoch * steps + step],
                *_take(examples, batch),
            )
            losses.append(loss)
        losses = np.mean(jax.device_get(losses), axis=0)
        if not np.isfinite(losses).any():
            raise UserError("training of the heads diverged: lower the learning_rates")
        yield params, losses


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _step(problem, weight_decay, params, state, moments, rates, features, targets):
    features = _standardised(features, moments)

    def move(params, state, rate):
        def loss_of(params):
            return problem.loss(problem.head.apply({"params": params}, features), targets)

        loss, grads = jax.value_and_grad(loss_of)(params)
        params, state = ADAMW.update(grads, state, params, Schedule(rate, weight_decay, 0.0))
        return params, state, loss

    return jax.vmap(move)(params, state, rates)


def _schedule(steps: int) -> Float[np.ndarray, " steps"]:
    """Of each step, the learning rate in shares of the highest: a line up, a cosine to 0."""
    step = np.arange(1, steps + 1)
    warmup = max(1, int(WARMUP * steps))
    cosine = (1 + np.cos(np.pi * (step - warmup) / max(1, steps - warmup))) / 2
    return np.where(step < warmup, step / warmup, cosine).astype(np.float32)


def _tallies(problem, params, examples: Examples, rows, moments, size: int) -> np.ndarray:
    """Of each head, the counts over all rows."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    found = [_tally(problem, params, moments, *_take(examples, part)) for part in parts]
    return np.sum(jax.device_get(found), axis=0, dtype=np.int64)


@partial(jax.jit, static_argnums=0)
def _tally(problem, params, moments, features, targets):
    features = _standardised(features, moments)

    def count(params):
        return problem.tally(problem.head.apply({"params": params}, features), targets)

    return jax.vmap(count)(params)


def _take(examples: Examples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(examples.features[rows], np.float32), examples.targets[rows]


def _standardised(features: Array, moments: tuple[Array, Array]) -> Array:
    mean, scale = moments
    return (features - mean[None, None]) * scale[None, None]


def _moments(features: Float[np.ndarray, "n N D"], chunk: int = 256) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each feature (D,); constant ones become 0."""
    first = features[0, 0].astype(np.float64)  # near the mean, so that little is lost in squares
    total, squares, count = 0.0, 0.0, features.shape[0] * features.shape[1]
    for start in range(0, len(features), chunk):
        part = features[start : start + chunk] - first
        total = total + part.sum((0, 1))
        squares = squares + np.square(part).sum((0, 1))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not np.isfinite(std).all():
        raise UserError(
            "training features hold NaN or infinity: take a checkpoint from before the run diverged"
        )
    scale = np.where(std > 1e-9 * (1 + np.abs(first)), 1 / np.maximum(std, 1e-30), 0)
    return np.float32(mean + first), np.float32(scale)


def _rng(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng((seed, PURPOSES.index(purpose), index))


def _check(train: Examples, test: Examples) -> None:
    for examples in (train, test):
        if examples.features.ndim != 3 or len(examples.features) != len(examples.targets):
            raise UserError(
                f"features have the shape {examples.features.shape} for"
                f" {len(examples.targets)} targets: give (images, patches, width), one target each"
            )
    if len(train.features) < 2 or not len(test.features):
        raise UserError("give at least two training images and a test image")
