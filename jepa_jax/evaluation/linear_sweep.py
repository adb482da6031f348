"""The paper's linear probe (appendix A.2): LARS, and a sweep of 24 heads trained at once.

Three learning rates × two weight decays × {last layer, last four concatenated} × {linear, batch
norm and linear}. All heads see the same batches, and those with the same input are one matrix
product: 24 cost far less than 24 times one.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.evaluation.checks import check_options, check_probe_input
from jepa_jax.evaluation.linear import layers_in_words
from jepa_jax.evaluation.splits import held_out
from jepa_jax.evaluation.task import Protocol, Result, Task

BATCH, STEPS = 16_384, 78  # images a step, and steps an epoch that this makes of ImageNet
EPOCHS = 50
DROP_EVERY = 15  # epochs after which the learning rate is a tenth
REFERENCE_BATCH = 256  # for which a head's learning rate is given
CHUNK = 4096  # test images at a time


class Head(NamedTuple):
    """One of the classifiers of a sweep."""

    layers: int  # how many of the last ones it sees, concatenated
    norm: bool  # whether features are standardised first
    learning_rate: float  # for a batch of 256
    weight_decay: float


@dataclass(frozen=True)
class Options:
    """What is swept; with the defaults 24 heads."""

    layers: tuple[int, ...] = (1, 4)
    learning_rates: tuple[float, ...] = (0.01, 0.05, 0.001)
    weight_decays: tuple[float, ...] = (5e-4, 0.0)
    epochs: int = EPOCHS

    def __post_init__(self):
        swept = "layers", "learning_rates", "weight_decays"
        check_options(
            self,
            some=swept,
            positive=("layers", "learning_rates", "epochs"),
            not_negative=("weight_decays",),
        )

    @property
    def heads(self) -> tuple[Head, ...]:
        norms = False, True
        settings = itertools.product(self.layers, norms, self.learning_rates, self.weight_decays)
        return tuple(itertools.starmap(Head, settings))


HEADS = Options().heads


class Sweep(NamedTuple):
    """What the heads of a sweep are worth: accuracies, shares in 0..1."""

    heads: tuple[Head, ...]
    test: tuple[float, ...]  # of each, trained on all training images
    held_out: tuple[float, ...]  # of each on a tenth of them, trained on the others

    def best(self, scores: Sequence[float], seeing: Sequence[tuple[int, bool]]) -> float:
        """The accuracy on the test images of the head that is best in `scores`.

        Args:
          scores: of each head: by `test` the paper reports, `held_out` is without the test images.
          seeing: (layers, norm) of the heads that count.
        """
        counts = [i for i, head in enumerate(self.heads) if (head.layers, head.norm) in seeing]
        return self.test[max(counts, key=scores.__getitem__)]


def linear_sweep(
    train_features: Float[np.ndarray, "n L D"],
    train_labels: Int[np.ndarray, " n"],
    test_features: Float[np.ndarray, "m L D"],
    test_labels: Int[np.ndarray, " m"],
    *,
    heads: Sequence[Head] = HEADS,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Sweep:
    """Trains all heads on frozen features.

    The best on the test images is what the paper reports, and a little too good: it was chosen on
    them. So all heads are also trained on nine tenths of the training images, and tried on the
    last tenth.

    As in the paper: batches of 16,384 images, 50 epochs, a learning rate that is given for 256
    images and grows with the batch, a tenth of it every 15 epochs. Training sets smaller than
    ImageNet have as many steps an epoch as it has (78), in smaller batches, and the same learning
    rate: LARS makes a step's length a share of the weights', whatever the batch. Unlike there,
    images come as they are tested, without random crops, and batch norm uses the statistics of
    all training images, of which a batch's are an estimate.

    Args:
      train_features: of the last L layers, the last one at the end; in memory of the device.
    """
    classes, labels = np.unique(train_labels, return_inverse=True)
    apart = held_out(len(labels), seed)
    run = partial(_accuracies, classes=len(classes), heads=heads, epochs=epochs, seed=seed)
    # A test label that training does not have counts as wrong.
    known = np.searchsorted(classes, test_labels).clip(max=len(classes) - 1)
    known = np.where(classes[known] == test_labels, known, -1)
    part = train_features[~apart], labels[~apart]
    tried = run(*part, train_features[apart], labels[apart])
    return Sweep(tuple(heads), run(train_features, labels, test_features, known), tried)


def batch_size(images: int) -> int:
    """The paper's, or for a smaller set the one with as many steps an epoch."""
    return min(BATCH, max(1, images // STEPS))


def _accuracies(
    features: Float[np.ndarray, "n L D"],
    labels: Int[np.ndarray, " n"],
    test_features: Float[np.ndarray, "m L D"],
    test_labels: Int[np.ndarray, " m"],
    *,
    classes: int,
    heads: Sequence[Head],
    epochs: int,
    seed: int,
) -> tuple[float, ...]:
    moments, size = moments_of(features), batch_size(len(features))
    *_, params = train(
        features, labels, moments, size, classes=classes, heads=heads, epochs=epochs, seed=seed
    )
    groups = _groups(heads)
    right = dict.fromkeys(groups, 0)
    for start in range(0, len(test_features), CHUNK):
        part = slice(start, start + CHUNK)
        x, y = jax.device_put((test_features[part].astype(np.float32), test_labels[part]))
        for group, logits in _logits(params, x, moments).items():
            right[group] += np.asarray((logits.argmax(-1) == y[:, None]).sum(0))
    shares = {
        head: float(count / len(test_features))
        for group, members in groups.items()
        for head, count in zip(members, right[group], strict=True)
    }
    return tuple(shares[head] for head in heads)


def train(
    features: Float[np.ndarray, "n L D"],
    labels: Int[np.ndarray, " n"],
    moments: tuple[Array, Array],
    size: int,
    *,
    classes: int,
    heads: Sequence[Head],
    epochs: int,
    seed: int,
) -> Iterator["Params"]:
    """Yields the parameters of all heads after each epoch; they hold until the next is asked for.

    Args:
      moments: of the features; see `moments_of`.
      size: images of a batch.
    """
    settings = {
        group: jnp.asarray([(h.learning_rate, h.weight_decay) for h in members], jnp.float32)
        for group, members in _groups(heads).items()
    }
    data = jax.device_put((features.astype(np.float32), labels.astype(np.int32)))
    params = _init(jax.random.key(seed), settings, features.shape[2], classes)
    opt_state = {group: jax.vmap(_lars(0.0, 0.0).init)(params[group]) for group in params}
    for epoch in range(epochs):
        rate = BATCH / REFERENCE_BATCH * 0.1 ** (epoch // DROP_EVERY)
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        params, opt_state = _epoch(
            params, opt_state, data, moments, settings, key, np.float32(rate), size=size
        )
        yield params


Group = tuple[int, bool]  # what heads with the same input have in common: layers and norm
Params = dict[Group, dict[str, Array]]  # kernel (heads, F, C) and bias (heads, C) of each group


def _groups(heads: Sequence[Head]) -> dict[Group, list[Head]]:
    groups: dict[Group, list[Head]] = {}
    for head in heads:
        groups.setdefault((head.layers, head.norm), []).append(head)
    return groups


def _init(key: Array, settings: dict[Group, Array], width: int, classes: int) -> Params:
    """The heads of a group start alike: what becomes of one does not depend on the others."""
    params = {}
    for (layers, norm), members in settings.items():
        own = jax.random.fold_in(key, 2 * layers + norm)
        kernel = 0.01 * jax.random.normal(own, (1, layers * width, classes))
        params[layers, norm] = {
            "kernel": jnp.repeat(kernel, len(members), axis=0),
            "bias": jnp.zeros((len(members), classes)),
        }
    return params


def _logits(
    params: Params, features: Float[Array, "B L D"], moments: tuple[Array, Array]
) -> dict[Group, Float[Array, "B heads C"]]:
    found = {}
    for (layers, norm), group in params.items():
        x = features[:, -layers:]
        if norm:
            mean, scale = (each[None, -layers:] for each in moments)
            x = (x - mean) * scale
        x = x.reshape(len(x), -1)
        heads, inputs, classes = group["kernel"].shape
        matrix = jnp.moveaxis(group["kernel"], 0, 1).reshape(inputs, heads * classes)
        found[layers, norm] = (x @ matrix).reshape(-1, heads, classes) + group["bias"][None]
    return found


def _lars(
    learning_rate: Array | float, weight_decay: Array | float
) -> optax.GradientTransformation:
    """As MAE's probe has it: biases are neither decayed nor scaled."""
    kernels = {"kernel": True, "bias": False}
    return optax.lars(
        learning_rate, weight_decay, weight_decay_mask=kernels, trust_ratio_mask=kernels
    )


@partial(jax.jit, static_argnames="size", donate_argnums=(0, 1))
def _epoch(
    params: Params,
    opt_state: dict[Group, Any],
    data: tuple[Float[Array, "n L D"], Int[Array, " n"]],
    moments: tuple[Array, Array],
    settings: dict[Group, Float[Array, "heads 2"]],
    key: Array,
    rate: Array,
    *,
    size: int,
) -> tuple[Params, dict[Group, Any]]:
    """Once over the images, in a random order, but for the few that do not fill a batch."""
    features, labels = data

    def loss(params, x, y):
        # Heads share nothing: the gradient of the sum is the gradient of each.
        return sum(
            optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.broadcast_to(y[:, None], logits.shape[:2])
            )
            .mean(0)
            .sum()
            for logits in _logits(params, x, moments).values()
        )

    def move(grads, state, params, setting):
        updates, state = _lars(rate * setting[0], setting[1]).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def step(carry, index):
        params, opt_state = carry
        grads = jax.grad(loss)(params, features[index], labels[index])
        moved = {
            group: jax.vmap(move)(grads[group], opt_state[group], params[group], settings[group])
            for group in params
        }
        return (
            {group: params for group, (params, _) in moved.items()},
            {group: state for group, (_, state) in moved.items()},
        ), None

    steps = len(labels) // size
    order = jax.random.permutation(key, len(labels))[: steps * size].reshape(steps, size)
    return jax.lax.scan(step, (params, opt_state), order)[0]


def moments_of(features: Float[np.ndarray, "n L D"]) -> tuple[Array, Array]:
    """Mean and 1 / standard deviation of each feature (L, D); constant ones become 0."""
    mean, std = (f(features, axis=0, dtype=np.float64) for f in (np.mean, np.std))
    scale = np.where(np.ptp(features, axis=0) > 0, 1 / np.maximum(std, 1e-12), 0)
    return jax.device_put((mean.astype(np.float32), scale.astype(np.float32)))


def run(task: Task, options: Options) -> Result:
    """The best head on the test images and the one chosen without them, by what heads see."""
    layers = max(options.layers)
    (train, train_labels), (test, test_labels) = (
        task.features(split, layers) for split in (task.train, task.test)
    )
    check_probe_input(train, train_labels, test, test_labels)
    train, test = (features.reshape(len(features), layers, -1) for features in (train, test))
    sweep = linear_sweep(
        *(train, train_labels, test, test_labels),
        heads=options.heads,
        epochs=options.epochs,
        seed=task.seed,
    )
    inputs = sorted({(head.layers, head.norm) for head in sweep.heads})
    rows_of = {_name(*one): [one] for one in inputs} | {f"all {len(sweep.heads)} heads": inputs}
    rows = {
        name: {
            "best of them": sweep.best(sweep.test, seeing),
            "chosen on held-out images": sweep.best(sweep.held_out, seeing),
        }
        for name, seeing in rows_of.items()
    }
    heads = [
        head._asdict() | {"test": test, "held_out": held_out}
        for head, test, held_out in zip(*sweep, strict=True)
    ]
    return Result(sweep.best(sweep.test, inputs), rows, details={"heads": heads})


def _name(layers: int, norm: bool) -> str:
    return f"{layers_in_words(layers)}, {'batch norm and linear' if norm else 'linear'}"


LINEAR_SWEEP = Protocol("linear_sweep", Options, run)
