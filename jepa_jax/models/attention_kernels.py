"""Kernels for attention that never write its logits to memory: cuDNN's, and splash on TPUs.

Both are of JAX. Arguments and results are those of `jepa_jax.models.attention.attention`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jepa_jax.models.activation_sharding import DATA_AXES

CUDNN_WIDTH = 128  # of a head, at most; Hopper takes more, which no ViT has
CUDNN_CAPABILITY = 8.0  # of the GPU, at least: Ampere
LANES = 128  # of a TPU: splash takes lengths that are multiples
LARGEST_BLOCK = 1024  # of tokens that splash holds at a time


def cudnn_takes(query: Array) -> bool:
    """Whether cuDNN has a kernel for such heads, and this machine's GPU runs it."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    if not capability.replace(".", "").isdecimal() or float(capability) < CUDNN_CAPABILITY:
        return False  # AMD's have letters
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    return half and query.shape[-1] % 8 == 0 and query.shape[-1] <= CUDNN_WIDTH


def cudnn(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, " B"] | None,
) -> Float[Array, "B H Q E"]:
    """cuDNN's flash attention. Lengths, as a mask of booleans would become a bias."""
    query, key, value = (jnp.moveaxis(x, 1, 2) for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=length, implementation="cudnn"
    )
    return jnp.moveaxis(mixed, 2, 1)


def splash(
    query: Float[Array, "B H Q E"],
    key: Float[Array, "B H N E"],
    value: Float[Array, "B H N E"],
    length: Int[Array, " B"] | None,
    interpret: bool = False,
) -> Float[Array, "B H Q E"]:
    """Splash attention, in Pallas; on a mesh each device has its images and heads.

    Args:
      interpret: what the kernel does, step by step, on any machine.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if length is None:
        length = jnp.full(len(key), key.shape[2], jnp.int32)
    own = functools.partial(_splash, interpret=interpret)
    if mesh.empty:
        return own(query, key, value, length)
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    data = tuple(axis for axis in DATA_AXES if axis in free)
    heads = P(data, "tensor")
    return jax.shard_map(
        own,
        axis_names=free,
        in_specs=(heads, heads, heads, P(data)),
        out_specs=heads,
        check_vma=False,  # Pallas does not say along which axes its results differ
    )(query, key, value, length)


def _splash(query: Array, key: Array, value: Array, length: Array, interpret: bool) -> Array:
    # Not above: importing Pallas takes longer than all models.
    from jax.experimental.pallas.ops.tpu import splash_attention

    heads, asked, width = query.shape[1:]
    query = query * jnp.asarray(width**-0.5, query.dtype)
    query, key, value = map(_pad, (query, key, value))
    rows, columns = query.shape[2], key.shape[2]
    mask = splash_attention.MultiHeadMask([splash_attention.FullMask((rows, columns))] * heads)
    block_q, block_kv = min(rows, LARGEST_BLOCK), min(columns, LARGEST_BLOCK)
    kernel = splash_attention.make_splash_mha_single_device(
        mask,
        block_sizes=splash_attention.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        interpret=interpret,
    )
    # Tokens see those of their own segment: 0 is all that ask, and the keys that are real.
    asking = jnp.zeros((len(query), rows), jnp.int32)
    unreal = (jnp.arange(columns)[None] >= length[:, None]).astype(jnp.int32)
    mixed = jax.vmap(kernel)(query, key, value, splash_attention.SegmentIds(asking, unreal))
    return mixed[:, :, :asked]


def _pad(x: Float[Array, "B H N E"]) -> Float[Array, "B H P E"]:
    """Zeros for further tokens, so that they are whole blocks."""
    unit = LANES if x.shape[2] <= LARGEST_BLOCK else LARGEST_BLOCK
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % unit), (0, 0)))
