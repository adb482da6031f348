"""The attentive probe: a learned query looks for what tells the classes apart among the patches.

Averaging, as the linear probe does, gives every patch the same say. Here cross-attention decides,
by what is in a patch, how much of it counts (Bardes et al. 2024, V-JEPA, section 4.2; without their
MLP, so that it remains a look at the features).
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.console import new_console, say
from jepa_jax.evaluation.checks import check_probe_labels
from jepa_jax.evaluation.heads import Examples, Point, Problem, Recipe, train_heads
from jepa_jax.evaluation.task import Protocol, Result, Task
from jepa_jax.models.layers import LAYER_NORM_EPS
from jepa_jax.parallel.processes import is_first

HEAD_WIDTH = 64  # of attention, at least; narrower features are one head


class AttentiveHead(nn.Module):
    """Cross-attention with one learned query, layer norm, linear classifier."""

    classes: int

    @nn.compact
    def __call__(self, patches: Float[Array, "B N D"]) -> Float[Array, "B C"]:
        width = patches.shape[-1]
        query = self.param("query", nn.initializers.normal(0.02), (1, 1, width))
        attend = nn.MultiHeadDotProductAttention(num_heads=_heads(width), name="attention")
        query = query.repeat(len(patches), axis=0)
        x = nn.LayerNorm(epsilon=LAYER_NORM_EPS, name="norm")(attend(query, patches)[:, 0])
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), name="output")(x)


def _heads(width: int) -> int:
    """The most that divide the width and are wide enough."""
    fitting = [n for n in range(1, width // HEAD_WIDTH + 1) if width % n == 0]
    return max(fitting, default=1)


def run(task: Task, options: Recipe) -> Result:
    """The accuracy after each epoch; the last one counts."""
    train, test = (
        Examples(*task.features(split, options.layers, patches=True))
        for split in (task.train, task.test)
    )
    check_probe_labels(train.targets)
    console = new_console(quiet=not is_first())

    def tell(point: Point) -> None:
        say(
            console,
            f"epoch {point.epoch} of {options.epochs}  loss {point.loss:.4f}"
            f"  test accuracy {100 * point.score:.1f} %",
        )

    problem = Problem(AttentiveHead(task.classes), _loss, _right, _accuracy)
    found = train_heads(problem, train, test, options, seed=task.seed, tell=tell)
    rows = {
        f"learning rate {rate:g}": {"held-out training images": score}
        for rate, score in found.held_out.items()
    }
    rows.setdefault(f"learning rate {found.chosen:g}", {})["accuracy"] = found.curve[-1].score
    details = {"curve": [point._asdict() for point in found.curve]}
    return Result(found.curve[-1].score, rows, details=details)


def _loss(logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _right(logits: Float[Array, "B C"], labels: Int[Array, " B"]) -> Int[Array, "2"]:
    """How many are right, of how many."""
    right = (logits.argmax(-1) == labels).sum(dtype=np.int32)
    return jax.numpy.stack([right, np.int32(len(labels))])


def _accuracy(counts: np.ndarray) -> float:
    return float(counts[0] / counts[1])


ATTENTIVE = Protocol("attentive", Recipe, run)
