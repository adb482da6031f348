"""Scaled dot-product attention: the one place where a backend's kernels enter."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.attention_kernels import cudnn, cudnn_takes, splash
from jepa_jax.models.platform import platform

# xla: logits and softmax written out, for XLA to fuse | fused: the backend's kernel, where it has
# one that takes these sizes | auto: that kernel, where it should be faster
CHOICES = ("auto", "xla", "fused")
# A TPU's memory moves the logits of so many keys in more time than its units take for all that
# splash computes in vain by padding.
SPLASH_FROM = 512
# Of shorter sequences cuDNN computes tiles that are mostly empty. By profiles of an H200 it takes
# three times as long with 28 keys as what XLA makes of it, and two thirds as long with 64.
CUDNN_FROM = 33


def attention(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, " B"] | None = None,
    choice: str = "auto",
) -> Float[Array, "B H Q E"]:
    """softmax(query·keyᵀ / √E)·value for each head; the softmax is taken in float32.

    Args:
      length: how many of the N keys each sequence really has; the others are not attended to.
        None means all.
      choice: of the kernel, one of `CHOICES`.
    """
    return kernel(choice, query, key)(query, key, value, length)


def kernel(choice: str, query: Array, key: Array) -> Callable[..., Array]:
    """What `attention` is for arrays of these sizes, on the devices of the mesh or machine."""
    backend = platform()
    if choice == "xla":
        return xla
    if backend == "tpu" and (choice == "fused" or key.shape[2] >= SPLASH_FROM):
        # In what each replica accumulates by itself, XLA can't split a kernel once more.
        return xla if jax.sharding.get_abstract_mesh().manual_axes else splash
    if backend == "gpu" and (choice == "fused" or key.shape[2] >= CUDNN_FROM):
        return cudnn if cudnn_takes(query) else xla
    return xla


def xla(query: Array, key: Array, value: Array, length: Array | None) -> Array:
    """Written out, with logits in float32."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    logits = jnp.einsum("bhqe,bhke->bhqk", query, key, preferred_element_type=jnp.float32)
    if length is not None:
        real = jnp.arange(key.shape[2])[None] < length[:, None]
        # Added, not chosen, as a CPU would compare for each logit.
        logits += jnp.where(real, 0.0, -jnp.inf)[:, None, None]
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bhke->bhqe", weights, value)


def attention_by_block(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, "B M"],
    size: int,
    choice: str = "auto",
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
        return attention(query, keys, jnp.concatenate([value, own_value], axis=2), length, choice)

    lengths = key.shape[2] + length
    mixed = jax.vmap(of_block, (2, 2, 2, 1), 2)(asked, own_key, own_value, lengths)
    mixed = mixed.reshape(*asked.shape[:2], blocks * size, -1)
    if not asks.shape[2]:
        return mixed
    return jnp.concatenate([attention(asks, key, value, None, choice), mixed], axis=2)
