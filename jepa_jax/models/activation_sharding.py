"""Where activations, and what becomes of kernels, lie on the mesh of devices."""

import jax
from jax import Array
from jax.sharding import PartitionSpec as P

DATA_AXES = ("replica", "fsdp")  # of the mesh; a batch is split along both


def split_by_batch(x: Array) -> Array:
    """x, its first axis split over the data axes of the mesh that `jax.set_mesh` has set.

    Left to itself, XLA splits activations by their features wherever 'fsdp' splits a kernel's
    inputs, and then sums them over the devices, which is many times the traffic of gathering
    the kernel. Without a mesh, or in one of other axes, x as it is;
    inside a replica, along the others.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in DATA_AXES if axis in set(mesh.axis_names) - set(mesh.manual_axes))
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes else x


def split_as_kernel(matrix: Array, heads: int) -> Array:
    """A kernel with heads that was made a matrix, where `heads` is the axis that has them.

    Its gradient lies likewise, and so is scattered over 'fsdp' as it arises: after the way back to
    the kernel's shape, XLA would sum it whole on each device if there are several replicas. On a
    mesh without the two axes the matrix as it is.
    """
    if not {"tensor", "fsdp"} <= set(jax.sharding.get_abstract_mesh().axis_names):
        return matrix
    spec = P("tensor", "fsdp") if heads == 0 else P("fsdp", "tensor")
    return jax.lax.with_sharding_constraint(matrix, spec)
