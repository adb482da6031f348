"""Flow matching (Lipman et al. 2023): a velocity that carries noise to data along straight lines.

    x_t = (1 - t)·noise + t·data,   t from 0 to 1,   velocity = E[data - noise | x_t]

Pure functions of a velocity: (x (n, P, F), t (n,)) -> (n, P, F).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

TIME_MEAN, TIME_STD = -0.8, 0.8  # of the numbers whose logistic function the times are

Velocity = Callable[[Float[Array, "n P F"], Float[Array, "n"]], Float[Array, "n P F"]]


def loss(
    velocity: Velocity, key: Array, data: Float[Array, "n P F"], real: Bool[Array, "n P"]
) -> Float[Array, ""]:
    """Mean square distance of the velocity from that of the lines, at times drawn at random.

    Times are a logistic function of normal numbers, more of them near the noise, where what is
    drawn is decided, than near the data, where only its grain is (as in Li & He 2025).

    Args:
      real: which of the P count; the others are padding.
    """
    time_key, noise_key = jax.random.split(key)
    time = jax.nn.sigmoid(TIME_MEAN + TIME_STD * jax.random.normal(time_key, data.shape[:1]))
    noise = jax.random.normal(noise_key, data.shape)
    t = time[:, None, None]
    error = velocity((1 - t) * noise + t * data, time) - (data - noise)
    return jnp.square(error).mean(-1).mean(where=real)


def sample(velocity: Velocity, noise: Float[Array, "n P F"], steps: int) -> Float[Array, "n P F"]:
    """Carries noise to data in so many steps: Heun's, and Euler's at the end.

    The last one is Euler's since a velocity that is a distance over the time left has no value
    at t = 1 (as in Karras et al. 2022). It calls the velocity 2·steps - 1 times.
    """
    size = 1 / steps

    def at(x: Array, time: Array) -> Array:
        return velocity(x, jnp.full(x.shape[:1], time))

    def heun(number: Array, x: Array) -> Array:
        time = number.astype(jnp.float32) * size
        first = at(x, time)
        second = at(x + size * first, time + size)
        return x + size * (first + second) / 2

    x = jax.lax.fori_loop(0, steps - 1, heun, noise)
    return x + size * at(x, jnp.float32(1 - size))
