"""The mesh ('replica', 'fsdp', 'tensor') and the one table that says what is split along it."""

import collections
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jepa_jax.errors import UserError
from jepa_jax.models.activation_sharding import DATA_AXES

AXES = (*DATA_AXES, "tensor")
BATCH = P(DATA_AXES)

# The first pattern found in a leaf's path decides; blocks have a leading depth axis. Optimizer
# moments have the paths of their parameters at the end of their own. What no rule names is small.
# Of two specs the first that divides the shape is taken.
RULES = (
    (r"attention/qkv/kernel$", P(None, "fsdp", "tensor", None, None)),
    (r"attention/qkv/bias$", P(None, "tensor", None, None)),
    (r"attention/projection/kernel$", P(None, "tensor", None, "fsdp")),
    (r"mlp/hidden/kernel$", P(None, "fsdp", "tensor")),
    (r"mlp/hidden/bias$", P(None, "tensor")),
    (r"mlp/output/kernel$", P(None, "tensor", "fsdp")),
    (r"patch_embed/kernel$", P(None, "fsdp")),
    (r"/embed/kernel$", P("fsdp", None)),
    (r"/output/kernel$", P(None, "fsdp"), P("fsdp", None)),  # the 588 pixels of a patch of 14
)


def make_mesh(shape: tuple[int, int, int], devices: Sequence | None = None) -> Mesh:
    """A mesh of all devices, or of those given; the sizes must multiply to their number.

    'replica', the outermost axis, is what crosses the network between TPU slices, which is slow.

    Raises:
      UserError: if a slice does not hold all of 'fsdp' and 'tensor'.
    """
    devices = jax.devices() if devices is None else devices
    # On GPUs a slice is a node: 'fsdp' may need several, and their ids are in order already.
    on_tpu = devices[0].platform == "tpu"
    slices = len({getattr(each, "slice_index", 0) for each in devices}) if on_tpu else 1
    replica, *inner = shape
    if replica % slices:
        chips = len(devices) // slices
        raise UserError(
            f"mesh.fsdp × mesh.tensor = {math.prod(inner)} must divide the {chips} chips of a"
            f" slice: otherwise parameters would travel over the network between the {slices}"
            " slices; take mesh.replica=-1 and a smaller mesh.fsdp"
        )
    within, options = (replica // slices, *inner), {"allow_split_physical_axes": True}
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, **options)
    else:
        grid = mesh_utils.create_device_mesh(within, devices, **options)
    # Explicit axes, the default, are refused by linen's matrix products under fsdp.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images go over 'replica' and 'fsdp'."""
    return NamedSharding(mesh, BATCH)


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is split; its size must be a multiple."""
    return math.prod(mesh.shape[axis] for axis in BATCH[0])


def process_share(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """(k, n): a process, or this one, feeds the k-th of the n equal parts of a batch.

    Which rows these are is the mesh's affair: along a ring of TPU chips, those of a process need
    not be neighbours.
    """
    process = jax.process_index() if process is None else process
    rows = collections.defaultdict(list)  # of the mesh, by process
    for number, row in enumerate(mesh.devices.reshape(-1, mesh.shape["tensor"])):
        for owner in {device.process_index for device in row}:
            rows[owner].append(number)
    parts = sorted(set(map(tuple, rows.values())))
    return parts.index(tuple(rows[process])), len(parts)


def tree_sharding(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf of a tree of arrays or shapes.

    Raises:
      UserError: if a rule splits an axis that its part of the mesh does not divide.
    """
    return jax.tree.map_with_path(lambda path, leaf: _leaf_sharding(path, leaf, mesh), tree)


def _leaf_sharding(path: tuple, leaf: Any, mesh: Mesh) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    specs = next((specs for pattern, *specs in RULES if re.search(pattern, name)), [P()])
    misfits = [_misfit(leaf.shape, spec, mesh) for spec in specs]
    if None not in misfits:
        size, axis = misfits[0]
        raise UserError(
            f"{name} {leaf.shape} does not split into mesh.{axis}={mesh.shape[axis]} parts:"
            f" take a size that divides {size}"
        )
    return NamedSharding(mesh, specs[misfits.index(None)])


def _misfit(shape: tuple[int, ...], spec: P, mesh: Mesh) -> tuple[int, str] | None:
    """The first size that its part of the mesh does not divide, and the axis it is split along."""
    for size, axis in zip(shape, spec, strict=False):
        if axis is not None and size % mesh.shape[axis]:
            return size, axis
    return None
