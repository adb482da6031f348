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

    def split(x: Array) -> tuple[Array, Array]:  # (B, H, K, E) and (B, H, M, P, E)
        seen, rest = jnp.split(x, [x.shape[2] - blocks * size], axis=2)
        return seen, rest.reshape(*x.shape[:2], blocks, size, -1)

    (asks, asked), (key, own_key), (value, own_value) = split(query), split(key), split(value)

    def of_block(query: Array, own_key: Array, own_value: Array, length: Array) -> Array:
        keys = jnp.concatenate([key, own_key], axis=2)
        return attention(query, keys, jnp.concatenate([value, own_value], axis=2), length)

    lengths = key.shape[2] + length
    mixed = jax.vmap(of_block, (2, 2, 2, 1), 2)(asked, own_key, own_value, lengths)
    mixed = mixed.reshape(*asked.shape[:2], blocks * size, -1)
    if not asks.shape[2]:
        return mixed
    return jnp.concatenate([attention(asks, key, value), mixed], axis=2)
