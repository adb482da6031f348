"""The mesh ('replica', 'fsdp', 'tensor') and the one table that says what is split along it."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jepa_jax.errors import UserError
from jepa_jax.models.activation_sharding import DATA_AXES

AXES = (*DATA_AXES, "tensor")
BATCH = P(DATA_AXES)

# The first pattern found in a leaf's path decides; blocks have a leading depth axis. Optimizer
# moments have the paths of their parameters at the end of their own. What no rule names is small.
RULES = (
    (r"attention/qkv/kernel$", P(None, "fsdp", "tensor", None, None)),
    (r"attention/qkv/bias$", P(None, "tensor", None, None)),
    (r"attention/projection/kernel$", P(None, "tensor", None, "fsdp")),
    (r"mlp/hidden/kernel$", P(None, "fsdp", "tensor")),
    (r"mlp/hidden/bias$", P(None, "tensor")),
    (r"mlp/output/kernel$", P(None, "tensor", "fsdp")),
    (r"patch_embed/kernel$", P(None, "fsdp")),
    (r"/embed/kernel$", P("fsdp", None)),
    (r"/output/kernel$", P(None, "fsdp")),
)


def make_mesh(shape: tuple[int, int, int], devices: Sequence | None = None) -> Mesh:
    """A mesh of all devices, or of those given; the sizes must multiply to their number."""
    # Explicit axes, the default, are refused by linen's matrix products under fsdp.
    return jax.make_mesh(shape, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images go over 'replica' and 'fsdp'."""
    return NamedSharding(mesh, BATCH)


def process_share(mesh: Mesh) -> tuple[int, int]:
    """(k, n): the rows of a batch that this process feeds are the k-th of n equal parts."""
    slices = math.prod(mesh.shape[axis] for axis in BATCH[0])
    rows = batch_sharding(mesh).addressable_devices_indices_map((slices,)).values()
    starts = sorted({row[0].indices(slices)[0] for row in rows})
    return starts[0] // len(starts), slices // len(starts)


def tree_sharding(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of a tree of arrays or shapes.

    Raises:
      UserError: if a rule splits an axis that its part of the mesh does not divide.
    """
    return jax.tree.map_with_path(lambda path, leaf: _leaf_sharding(path, leaf, mesh), tree)


def _leaf_sharding(path: tuple, leaf: Any, mesh: Mesh) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), P())
    for size, axis in zip(leaf.shape, spec, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"{name} {leaf.shape} does not split into mesh.{axis}={mesh.shape[axis]} parts:"
                f" take a size that divides {size}"
            )
    return NamedSharding(mesh, spec)
