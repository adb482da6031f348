"""Scaled dot-product attention: the one place where a backend's kernels would enter."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def attention(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, " B"] | None = None,
) -> Float[Array, "B H Q E"]:
    """softmax(query·keyᵀ / √E)·value for each head; the softmax is taken in float32.

    Args:
      length: how many of the N keys each sequence really has; the others are not attended to.
        None means all.
    """
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    logits = jnp.einsum("bhqe,bhke->bhqk", query, key, preferred_element_type=jnp.float32)
    if length is not None:
        position = jax.lax.broadcasted_iota(length.dtype, logits.shape, 3)
        logits = jnp.where(position < length[:, None, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bhke->bhqe", weights, value)
