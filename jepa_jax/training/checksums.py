"""A checksum of every leaf of a tree, computed where the leaf lies.

Each element is mixed with its position, and the results are added up modulo 2³². Such a sum does
not depend on its order: devices and processes each add up their own shard, and the number is the
same on any mesh. The mix of an element is one to one, so that a change of one element is always
noticed; of changes to many, one in 2⁶⁴ is not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def checksums(tree: Any) -> dict[str, str]:
    """The checksum of each leaf of a tree of arrays, by the leaf's path: 16 hexadecimal digits."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    # One program for all: several at once might send their sums between processes in an order
    # that differs from one process to the other, and wait for each other without end.
    sums = jax.device_get(_leaf_sums([leaf for _, leaf in leaves]))
    return {name: f"{high:08x}{low:08x}" for name, (high, low) in zip(names, sums, strict=True)}


@jax.jit
def _leaf_sums(leaves: list[Array]) -> Array:
    """(number of leaves, 2) uint32."""
    return jnp.stack([_leaf_sum(leaf) for leaf in leaves])


def _leaf_sum(leaf: Array) -> Array:
    """(2,) uint32."""
    words = _words(leaf)
    mixed = _mix(words ^ _mix(_positions(words.shape)))
    return jnp.stack([jnp.sum(mixed), jnp.sum(_mix(mixed + np.uint32(0x9E3779B9)))])


def _words(leaf: Array) -> Array:
    """The bits of each element as uint32; of wide elements as a last axis of them."""
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> Array:
    """The place of each element in C order, modulo 2³²."""
    place, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place, stride = place + index * np.uint32(stride % 2**32), stride * shape[axis]
    return place


def _mix(x: Array) -> Array:
    """A one-to-one map of uint32 in which every bit has a say in all: MurmurHash3's finaliser."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
