"""k-nearest-neighbour classification: a probe without training."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Int

from jepa_jax.evaluation.checks import check_options, check_probe_input
from jepa_jax.evaluation.task import Protocol, Result, Task

CHUNK = 256  # test images compared at a time: bounds memory at CHUNK × n similarities
CHUNK_EXACT = 32  # the same for the float64 cosines
SPARE = 8  # neighbours that float32 may confuse with the last ones


class Neighbours(NamedTuple):
    """Of each of m images the k most similar ones of training, the most similar first."""

    similarity: Float64[np.ndarray, "m k"]  # cosine
    labels: Int[np.ndarray, "m k"]

    def vote(self, count: int, temperature: float | None = None) -> Int[np.ndarray, " m"]:
        """The label that most of the first `count` have; of equal votes the lower one.

        Args:
          temperature: a vote's weight is exp(similarity / temperature); None: all weigh the same.
        """
        classes, labels = np.unique(self.labels[:, :count], return_inverse=True)
        similarity = self.similarity[:, :count]
        # Relative to the nearest, no temperature overflows, and the votes' order is the same.
        weight = np.exp((similarity - similarity[:, :1]) / (temperature or np.inf))
        winners = [
            np.bincount(row, votes, len(classes)).argmax()
            for row, votes in zip(labels.reshape(weight.shape), weight, strict=True)
        ]
        return classes[winners]


def nearest(
    train_features: Float[np.ndarray, "n D"],
    train_labels: Int[np.ndarray, " n"],
    test_features: Float[np.ndarray, "m D"],
    count: int,
) -> Neighbours:
    """The `count` training images most similar by cosine (all of them, if there are fewer).

    Found in float32 on the device, with some to spare, which are then put in the order of their
    float64 cosines: so what is nearer than another does not depend on the device. Of equally
    similar images the earlier is taken.
    """
    train, test = (np.asarray(part, np.float32) for part in (train_features, test_features))
    # Explicit transfers: the training loop, which may call this, forbids the implicit ones.
    found = _nearest(*jax.device_put((train, test)), count=min(count + SPARE, len(train)))
    index = np.sort(jax.device_get(found), axis=1)
    similarity = np.empty(index.shape)
    for start in range(0, len(test), CHUNK_EXACT):
        chunk = slice(start, start + CHUNK_EXACT)
        candidates, images = _unit(train[index[chunk]]), _unit(test[chunk])
        similarity[chunk] = np.einsum("mkd,md->mk", candidates, images)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    similarity, index = (np.take_along_axis(part, order, 1) for part in (similarity, index))
    return Neighbours(similarity, np.asarray(train_labels)[index])


def knn_accuracy(
    train_features: Float[np.ndarray, "n D"],
    train_labels: Int[np.ndarray, "n"],
    test_features: Float[np.ndarray, "m D"],
    test_labels: Int[np.ndarray, "m"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy, a share in 0..1, of the k-NN of Wu et al. (2018), as used by DINO.

    The `neighbours` training images most similar by cosine (all of them, if there are fewer)
    vote for their class with weight exp(similarity / temperature). Of equally similar images
    the earlier is taken, of equal votes the lower label. A test label that training does not
    have counts as wrong.

    Raises:
      UserError: the shapes do not go together, or training has fewer than two classes.

    >>> train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> test = np.array([[5.0, 1.0], [0.1, 0.3]])
    >>> knn_accuracy(train, np.array([3, 3, 8]), test, np.array([3, 3]), neighbours=1)
    0.5
    """
    check_probe_input(train_features, train_labels, test_features, test_labels)
    found = nearest(train_features, train_labels, test_features, neighbours)
    return float(np.mean(found.vote(neighbours, temperature) == test_labels))


@partial(jax.jit, static_argnames="count")
def _nearest(
    train: Float[Array, "n D"], test: Float[Array, "m D"], *, count: int
) -> Int[Array, "m k"]:
    length = jnp.linalg.norm(train, axis=-1, keepdims=True)
    train = train / jnp.where(length > 0, length, 1)

    def compare(feature: Float[Array, " D"]) -> Int[Array, " k"]:
        # Full precision: a TPU's default rounds to bfloat16, which swaps close neighbours. The
        # length of the test image has no say in the order.
        return jax.lax.top_k(jnp.matmul(train, feature, precision="highest"), count)[1]

    return jax.lax.map(compare, test, batch_size=CHUNK)


def _unit(x: Float[np.ndarray, "... D"]) -> Float64[np.ndarray, "... D"]:
    """Vectors of length 1; a zero vector stays zero, and so is similar to nothing."""
    x = x.astype(np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


@dataclass(frozen=True)
class Options:
    """What is tried.

    Attributes:
      k: of the number that stands for the protocol; fixed beforehand, since the best of many,
        found on the test images, is better than any that could have been chosen.
      neighbours: other k, for the table.
      temperature: of the weighted votes.
      layers: how many of the last ones, side by side.
    """

    k: int = 20
    neighbours: tuple[int, ...] = (1, 5, 10, 20, 50, 100, 200)
    temperature: float = 0.07
    layers: int = 1

    def __post_init__(self):
        check_options(self, positive=("k", "neighbours", "temperature", "layers"))


def run(task: Task, options: Options) -> Result:
    """Accuracies by k, of votes weighted as in `knn_accuracy` and of plain ones.

    The weighted one of `options.k` counts.
    """
    counts = sorted({options.k, *options.neighbours})
    (train, train_labels), (test, test_labels) = (
        task.features(split, options.layers) for split in (task.train, task.test)
    )
    check_probe_input(train, train_labels, test, test_labels)
    found = nearest(train, train_labels, test, counts[-1])
    rows = {
        f"k={count}": {
            name: float(np.mean(found.vote(count, temperature) == test_labels))
            for name, temperature in (("weighted", options.temperature), ("plain", None))
        }
        for count in counts
        if count <= max(len(train), options.k)
    }
    return Result(
        rows[f"k={options.k}"]["weighted"], rows, f"accuracy, of which k={options.k} counts"
    )


KNN = Protocol("knn", Options, run)
