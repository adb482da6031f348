"""The linear probe: how much of the labels a linear classifier reads from frozen features."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.evaluation.checks import check_options, check_probe_input
from jepa_jax.evaluation.splits import held_out
from jepa_jax.evaluation.task import Protocol, Result, Task


def linear_probe_accuracy(
    train_features: Float[np.ndarray, "n D"],
    train_labels: Int[np.ndarray, "n"],
    test_features: Float[np.ndarray, "m D"],
    test_labels: Int[np.ndarray, "m"],
    *,
    l2: float = 1e-3,
) -> float:
    """Accuracy, a share in 0..1, of multinomial logistic regression on standardised features.

    Minimises mean cross entropy + l2/2 · ‖weights‖² (the bias is free) over all training images
    at once: one answer, without learning rate, schedule or seed, so that checkpoints compare.
    Features are standardised first and the penalty goes with the mean, so that one `l2` means
    the same at every scale of features and number of images (scikit-learn's C is 1 / (l2 · n)).
    The default lies between what suits narrow features of a network (1e-4) and what suits raw
    pixels (1e-2) with 10,000 images. A test label that training does not have counts as wrong.

    Raises:
      UserError: the shapes do not go together, or training has fewer than two classes.
    """
    check_probe_input(train_features, train_labels, test_features, test_labels)
    predicted = linear_predictions(train_features, train_labels, test_features, l2=l2)
    return float(np.mean(predicted == test_labels))


def linear_predictions(
    train_features: Float[np.ndarray, "n D"],
    train_labels: Int[np.ndarray, "n"],
    test_features: Float[np.ndarray, "m D"],
    *,
    l2: float = 1e-3,
) -> Int[np.ndarray, "m"]:
    """What the classifier of `linear_probe_accuracy` says the labels are."""
    classes, train_labels = np.unique(train_labels, return_inverse=True)
    mean = np.mean(train_features, 0, dtype=np.float64)
    # Infinity takes constant features to 0. Found by range, as rounding may give them a std.
    varies = np.ptp(train_features, 0) > 0
    std = np.where(varies, np.std(train_features, 0, dtype=np.float64), np.inf)
    weights, bias = _fit((train_features - mean) / std, train_labels, l2)
    return classes[np.argmax((test_features - mean) / std @ weights + bias, -1)]


def _fit(
    features: Float[np.ndarray, "n D"], labels: Int[np.ndarray, "n"], l2: float
) -> tuple[Float[np.ndarray, "D k"], Float[np.ndarray, "k"]]:
    """Weights and bias for labels 0..k-1, until no entry of the gradient is beyond 1e-5.

    Or rounding allows no further step. At 1e-4, with few images and many features, one in a hundred
    test images and more is told otherwise than by the solution, and others on one core than on two.
    """
    from scipy.optimize import minimize  # half a second, which the start of a run does without

    shape = features.shape[1] + 1, int(labels.max()) + 1  # the last row is the bias
    # Explicit transfers: the training loop, which may call this, forbids the implicit ones.
    x, y, penalty = jax.device_put(
        (features.astype(np.float32), labels.astype(np.int32), np.float32(l2))
    )

    def value_and_gradient(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parameters = jax.device_put(flat.reshape(shape).astype(np.float32))
        value, gradient = jax.device_get(_objective(parameters, x, y, penalty))
        return value.astype(np.float64), gradient.astype(np.float64).ravel()

    options = {"gtol": 1e-5, "ftol": 0, "maxiter": 10_000, "maxfun": 20_000}
    solution = minimize(
        value_and_gradient,
        np.zeros(shape).ravel(),
        jac=True,
        method="L-BFGS-B",
        options=options,
    ).x.reshape(shape)
    return solution[:-1], solution[-1]


@jax.jit
@jax.value_and_grad
def _objective(
    parameters: Float[Array, "D+1 k"],
    x: Float[Array, "n D"],
    y: Int[Array, "n"],
    l2: Float[Array, ""],
) -> Float[Array, ""]:
    weights, bias = parameters[:-1], parameters[-1]
    # Full precision: a TPU's default rounds to bfloat16, on which the line search gives up.
    logits = jnp.matmul(x, weights, precision="highest") + bias[None]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return entropy + l2 / 2 * jnp.square(weights).sum()


@dataclass(frozen=True)
class Options:
    """What is tried; of several settings one is chosen without the test images."""

    l2: tuple[float, ...] = (1e-3,)
    layers: tuple[int, ...] = (1,)

    def __post_init__(self):
        check_options(self, some=("l2", "layers"), positive=("l2", "layers"))


def run(task: Task, options: Options) -> Result:
    """Accuracies by penalty and number of layers.

    Where there are several, the one counts that is best on a tenth of the training images, trained
    on the others.
    """
    rows, several = {}, len(options.l2) * len(options.layers) > 1
    for layers in options.layers:
        (x, y), test = (task.features(split, layers) for split in (task.train, task.test))
        apart = held_out(len(y), task.seed) if several else None
        for l2 in options.l2:
            row = rows[f"l2={l2:g}, {layers_in_words(layers)}"] = {}
            row["accuracy"] = linear_probe_accuracy(x, y, *test, l2=l2)
            if several:  # the only image of a class may be held out, and count as wrong
                predicted = linear_predictions(x[~apart], y[~apart], x[apart], l2=l2)
                row["on held-out training images"] = float(np.mean(predicted == y[apart]))
    # The last column: on held-out images, or of the only row.
    chosen = max(rows.values(), key=lambda row: list(row.values())[-1])
    return Result(chosen["accuracy"], rows)


def layers_in_words(layers: int) -> str:
    """What rows of tables call so many of the last layers."""
    return "last layer" if layers == 1 else f"last {layers} layers"


LINEAR = Protocol("linear", Options, run)
