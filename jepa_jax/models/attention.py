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
    if choice not in CHOICES:
        raise ValueError(f"attention {choice!r}: take one of {', '.join(CHOICES)}")
    backend, mesh = platform(), jax.sharding.get_abstract_mesh()
    # In what each replica accumulates by itself, XLA can't split a kernel once more.
    if choice == "xla" or mesh.manual_axes:
        return xla
    fused, keys = choice == "fused", key.shape[2]
    if backend == "tpu" and (fused or keys >= SPLASH_FROM):
        return splash if mesh.empty or "tensor" in mesh.axis_names else xla
    if backend == "gpu" and (fused or keys >= CUDNN_FROM) and cudnn_takes(query):
        return cudnn
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
    lengths = jnp.unstack(length, axis=1)
    context = key.shape[2] - len(lengths) * size

    def split(x: Array) -> list[Array]:  # [context | block | … | block]
        begins = [x.shape[2] - count * size for count in range(len(lengths), 0, -1)]
        return jnp.split(x, begins, axis=2)

    def both(seen: Array, own: Array) -> Array:
        return jnp.concatenate([seen, own], axis=2)

    (asks, *asked), (key, *keys), (value, *values) = map(split, (query, key, value))
    # One by one: mapped over blocks, cuDNN's kernel refuses; with blocks as further sequences of
    # the batch, a TPU's compiler gathers heads that a mesh has split.
    mixed = [
        attention(block, both(key, own_key), both(value, own_value), context + real, choice)
        for block, own_key, own_value, real in zip(asked, keys, values, lengths, strict=True)
    ]
    if asks.shape[2]:
        mixed.insert(0, attention(asks, key, value, None, choice))
    return jnp.concatenate(mixed, axis=2)
