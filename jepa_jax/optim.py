"""Schedules, AdamW with a scheduled weight decay, and the moving average of the target encoder.

Everything is a pure function of the step, computed in float32 inside the compiled step. The
schedules are written so that they keep their digits there (see `_cosine`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import keystr

NOT_DECAYED = ("bias", "scale")


class Schedule(NamedTuple):
    """The three values of one step."""

    learning_rate: Array
    weight_decay: Array
    momentum: Array  # of the target encoder's moving average


@dataclasses.dataclass(frozen=True)
class Schedules:
    """Warm-up and cosine of the learning rate, cosine of the decay, line of the momentum.

    The published code's, whose counters differ: learning rate and weight decay count the first step
    as 1, the momentum as 0.

    Attributes:
      steps: of the whole schedule, in which it reaches its final values.
      warmup_steps: in which the learning rate rises from start to peak.
      learning_rate: start, peak, final.
      weight_decay, momentum: first, final.
    """

    steps: int
    warmup_steps: int
    learning_rate: tuple[float, float, float]
    weight_decay: tuple[float, float]
    momentum: tuple[float, float]

    def __call__(self, step: Array | int) -> Schedule:
        """Values for the step with this 0-based number."""
        step = jnp.asarray(step, jnp.int32)
        start, peak, final = self.learning_rate
        count = step + 1
        rise, fall = self.warmup_steps, max(self.steps - self.warmup_steps, 1)
        learning_rate = jnp.where(
            count < rise,
            start + (peak - start) * _share(count, max(rise, 1)),
            _cosine(peak, final, count - rise, fall),
        )
        weight_decay = _cosine(*self.weight_decay, count, self.steps)
        first, last = self.momentum
        momentum = first + (last - first) * _share(step, self.steps)
        return Schedule(learning_rate, weight_decay, momentum)


def _share(part: Array, whole: int) -> Array:
    """part / whole in [0, 1]; exact to a rounding, as both are integers below 2²⁴."""
    return jnp.clip(part.astype(jnp.float32) / jnp.float32(whole), 0.0, 1.0)


def _cosine(first: float, last: float, count: Array, total: int) -> Array:
    """Half a cosine from first to last, as a sum of squared sines.

    (1 + cos) / 2 would cancel all digits of a float32 near the end.
    """
    left, done = (
        jnp.square(jnp.sin(jnp.float32(jnp.pi / 2) * _share(part, total)))
        for part in (total - count, count)
    )
    return first * left + last * done


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (decoupled decay) whose learning rate and decay are given at each step.

    Attributes:
      first_moment_dtype: in which it is kept between steps. The second moment has no such choice:
        its decay by a thousandth a step would be lost in bfloat16's rounding.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None
    first_moment_dtype: str = "float32"

    def init(self, params: Any) -> optax.OptState:
        """Raises ValueError if parameters are not float32."""
        _check_float32(params)
        return self._adam.init(params)

    def update(
        self, grads: Any, opt_state: optax.OptState, params: Any, schedule: Schedule
    ) -> tuple[Any, optax.OptState]:
        """One step: new parameters and state. Biases and norm scales are not decayed."""
        if self.clip_norm is not None:
            grads, _ = optax.clip_by_global_norm(self.clip_norm).update(grads, optax.EmptyState())
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32's power
            updates, opt_state = self._adam.update(grads, opt_state)

        def move(param, update, decayed):
            kept = 1.0 - schedule.learning_rate * schedule.weight_decay if decayed else 1.0
            return kept * param - schedule.learning_rate * update

        return jax.tree.map(move, params, updates, decay_mask(params)), opt_state

    @property
    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(
            self.b1, self.b2, self.eps, mu_dtype=jnp.dtype(self.first_moment_dtype)
        )


def decay_mask(params: Any) -> Any:
    """True for what weight decay applies to: all but biases and norm scales.

    By name: a stacked bias has two axes. The mask token is decayed, as in the published code.
    """

    def decayed(path, _):
        names = [name for key in path if not (name := keystr((key,), simple=True)).isdigit()]
        return not names or names[-1] not in NOT_DECAYED

    return jax.tree.map_with_path(decayed, params)


def moving_average(target: Any, online: Any, momentum: Array) -> Any:
    """target · momentum + online · (1 - momentum), leaf by leaf.

    Raises:
      ValueError: if the target is not float32.
    """
    _check_float32(target)
    return jax.tree.map(lambda t, o: momentum * t + (1.0 - momentum) * o, target, online)


def _check_float32(params: Any) -> None:
    """In coarser numbers, what a step changes would be lost."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if (dtype := jnp.result_type(leaf)) != jnp.float32:
            name = keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} is {dtype}: keep parameters in float32, and cast copies")
