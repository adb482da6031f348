"""Weighted k-nearest-neighbour classification: a probe without training."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_probe_input

CHUNK = 256  # test images compared at a time: bounds memory at CHUNK × n similarities


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
      UserError: the shapes do not go together, training has fewer than two classes, or
        `neighbours` or `temperature` is not positive.

    >>> train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> test = np.array([[5.0, 1.0], [0.1, 0.3]])
    >>> knn_accuracy(train, np.array([3, 3, 8]), test, np.array([3, 3]), neighbours=1)
    0.5
    """
    check_probe_input(train_features, train_labels, test_features, test_labels)
    if neighbours < 1 or temperature <= 0:
        raise UserError(
            f"neighbours={neighbours}, temperature={temperature}: give values above zero"
        )
    classes, train_labels = np.unique(train_labels, return_inverse=True)
    # Explicit transfers: the training loop, which may call this, forbids the implicit ones.
    predicted = _predict(
        *jax.device_put(
            (
                np.asarray(train_features, np.float32),
                train_labels.astype(np.int32),
                np.asarray(test_features, np.float32),
                np.float32(temperature),
            )
        ),
        neighbours=min(neighbours, len(train_features)),
        classes=len(classes),
    )
    return float(np.mean(classes[jax.device_get(predicted)] == test_labels))


@partial(jax.jit, static_argnames=("neighbours", "classes"))
def _predict(
    train: Float[Array, "n D"],
    labels: Int[Array, "n"],
    test: Float[Array, "m D"],
    temperature: Float[Array, ""],
    *,
    neighbours: int,
    classes: int,
) -> Int[Array, "m"]:
    train = _unit(train)

    def classify(feature: Float[Array, "D"]) -> Int[Array, ""]:
        # Full precision: a TPU's default rounds to bfloat16, which swaps close neighbours.
        similarity = jnp.matmul(train, feature, precision="highest")
        nearest, index = jax.lax.top_k(similarity, neighbours)
        # Relative to the nearest, no temperature overflows, and the votes' order is the same.
        weight = jnp.exp((nearest - nearest[0]) / temperature)
        ballots = jax.nn.one_hot(labels[index], classes, dtype=weight.dtype)
        return jnp.argmax(jnp.matmul(weight, ballots, precision="highest"))

    return jax.lax.map(classify, _unit(test), batch_size=CHUNK)


def _unit(x: Float[Array, "n D"]) -> Float[Array, "n D"]:
    """Rows of length 1; a zero row stays zero, and so is similar to nothing."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
