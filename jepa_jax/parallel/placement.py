"""What of a state is split how, as a table, and a stop if too much of it is not split at all."""

import collections
import math
from typing import Any

import jax
from rich.table import Table

from jepa_jax.errors import UserError

REPLICATED_SHARE = 0.02  # of the parameters; biases and norms are about 1 %
REPLICATED_SMALL = 1_000_000  # parameters that may lie anywhere: tiny models are mostly biases


def placement_table(shapes: Any, sharding: Any) -> Table:
    """For each way of splitting: how many arrays and values, and MiB of each device."""
    rows = collections.defaultdict(lambda: [0, 0, 0])
    for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(sharding), strict=True):
        axes = [axis for axis in jax.tree.leaves(tuple(place.spec)) if place.mesh.shape[axis] > 1]
        row = rows[" and ".join(axes) or "on every device"]
        row[0] += 1
        row[1] += leaf.size
        row[2] += math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    table = Table(title="State by the mesh axes that split it", title_justify="left")
    table.add_column("split by")
    for column in ("arrays", "values (M)", "MiB a device"):
        table.add_column(column, justify="right")
    for name, (arrays, values, size) in sorted(rows.items(), key=lambda row: -row[1][2]):
        table.add_row(name, str(arrays), f"{values / 1e6:,.2f}", f"{size / 2**20:,.1f}")
    return table


def check_split(params: Any, sharding: Any) -> None:
    """Whether 'fsdp', where it is used, splits nearly all parameters.

    Raises:
      UserError: if it does not; names the largest that lies whole on every device.
    """
    places = jax.tree.leaves(sharding)
    if places[0].mesh.shape["fsdp"] == 1:
        return
    leaves = jax.tree_util.tree_leaves_with_path(params)
    whole = [
        (leaf.size, jax.tree_util.keystr(path, simple=True, separator="/"))
        for (path, leaf), place in zip(leaves, places, strict=True)
        if place.is_fully_replicated
    ]
    replicated = sum(size for size, _ in whole)
    share = replicated / sum(leaf.size for _, leaf in leaves)
    if share > REPLICATED_SHARE and replicated > REPLICATED_SMALL:
        raise UserError(
            f"{share:.0%} of the parameters would lie whole on every device in spite of"
            f" mesh.fsdp, the largest of them {max(whole)[1]}: name it in RULES of"
            " jepa_jax/parallel/sharding.py, or set mesh.fsdp=1"
        )
