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


def attention_by_block(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, "B M"],
    size: int,
) -> Float[Array, "B H Q E"]:
    """Attention among [context | M blocks]: a block's tokens attend to the context and their block.

    The context's attend to the context alone, so that one pass over it serves all blocks.

    Args:
      query: of all N tokens, or of the blocks' alone.
      length: how many of a block's `size` tokens are real.
    """
    blocks = length.shape[1]
    context = key.shape[2] - blocks * size

    def split(x: Array) -> tuple[Array, Array]:  # (B, H, K, E) and (B, H, M, P, E)
        seen, rest = jnp.split(x, [x.shape[2] - blocks * size], axis=2)
        return seen, rest.reshape(*x.shape[:2], blocks, size, -1)

    (asks, asked), (key, own_key), (value, own_value) = split(query), split(key), split(value)
    scaled = asked * jnp.asarray(asked.shape[-1] ** -0.5, asked.dtype)
    to_context = jnp.einsum("bhmpe,bhke->bhmpk", scaled, key, preferred_element_type=jnp.float32)
    to_own = jnp.einsum("bhmpe,bhmqe->bhmpq", scaled, own_key, preferred_element_type=jnp.float32)
    position = jax.lax.broadcasted_iota(length.dtype, to_own.shape, 4)
    to_own = jnp.where(position < length[:, None, :, None, None], to_own, -jnp.inf)
    weights = jax.nn.softmax(jnp.concatenate([to_context, to_own], axis=-1), axis=-1)
    of_context, of_own = jnp.split(weights.astype(value.dtype), [context], axis=-1)
    mixed = jnp.einsum("bhmpk,bhke->bhmpe", of_context, value)
    mixed += jnp.einsum("bhmpq,bhmqe->bhmpe", of_own, own_value)
    mixed = mixed.reshape(*asked.shape[:2], blocks * size, -1)
    if not asks.shape[2]:
        return mixed
    return jnp.concatenate([attention(asks, key, value), mixed], axis=2)
