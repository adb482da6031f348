"""Where activations lie on the mesh of devices."""

import jax
from jax import Array
from jax.sharding import PartitionSpec as P

DATA_AXES = ("replica", "fsdp")  # of the mesh; a batch is split along both


def split_by_batch(x: Array) -> Array:
    """x, its first axis split over the data axes of the mesh that `jax.set_mesh` has set.

    Left to itself, XLA splits activations by their features wherever 'fsdp' splits a kernel's
    inputs, and then sums them over the devices, which is many times the traffic of gathering
    the kernel. Without a mesh, x as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(DATA_AXES))
