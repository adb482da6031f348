"""A recipe's train step, compiled for devices that need not be there."""

import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.compilation.collectives import Traffic, collectives
from jepa_jax.compilation.hlo import parse
from jepa_jax.compilation.moves import Move, moves
from jepa_jax.config import grid, mask_spec, mesh_shape
from jepa_jax.masks import Masks
from jepa_jax.parallel.sharding import batch_sharding, make_mesh, tree_sharding
from jepa_jax.training.checkpoints import with_sharding
from jepa_jax.training.setup import build_model, jit_step

TEMPORARY = "activations, gradients"
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler made of a step.

    Attributes:
      compiles: whether it found room for everything, as far as it knows the memory of a chip.
      seconds: that compiling took.
      memory: bytes a chip by kind; without the temporary ones if it does not fit and the compiler
        does not tell.
      traffic: collectives by kind; empty if it does not compile.
      moves: large copies, and logits in memory; none if it does not compile.
    """

    compiles: bool
    seconds: float
    memory: dict[str, int]
    traffic: dict[str, Traffic]
    moves: tuple[Move, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes of a chip."""
        return sum(self.memory.values())

    def fits(self, memory: int | None) -> bool:
        """Whether a chip with so many bytes has room; where that is not known, whether it compiles.

        XLA compiles for a CPU whatever it takes.
        """
        return self.compiles and (memory is None or self.needed <= memory)


def compile_step(config: ConfigDict, devices: list) -> Compilation:
    """Compiles as `training.loop` would, for these devices."""
    mesh = make_mesh(mesh_shape(config, len(devices)), devices)
    model = build_model(config, steps_per_epoch=1)  # schedules change constants alone
    image = (*config.data.image_size, config.data.channels)
    shapes = jax.eval_shape(lambda: ijepa.init(model, jax.random.key(0), image))
    sharding = tree_sharding(shapes, mesh)
    state, batch = with_sharding(shapes, sharding), batch_shapes(config, mesh)
    memory = {
        "parameters": _bytes(state.params),
        "target encoder": _bytes(state.target),
        "optimizer": _bytes(state.opt_state),
        "batch": _bytes(batch),
    }
    with jax.set_mesh(mesh):
        lowered = jit_step(sharding).lower(model, state, batch)
    begin = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compilation(False, time.monotonic() - begin, memory | _wanted(str(error)), {})
    seconds = time.monotonic() - begin
    needed = compiled.memory_analysis()
    memory[TEMPORARY] = needed.temp_size_in_bytes
    memory["program"] = needed.generated_code_size_in_bytes
    program, spec = parse(compiled.as_text()), mask_spec(config)
    lengths = {math.prod(grid(config)), spec.num_context, spec.block_length}
    lengths.add(spec.num_context + spec.block_length)
    return Compilation(True, seconds, memory, collectives(program), tuple(moves(program, lengths)))


def batch_shapes(config: ConfigDict, mesh: jax.sharding.Mesh) -> ijepa.Batch:
    """The shapes of a batch as the loader makes it, split over the mesh."""
    spec, data = mask_spec(config), config.data
    draws = () if config.train.draws == 1 else (config.train.draws,)

    def array(*shape: int, dtype=jnp.int32):
        whole = (config.train.batch_size, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=batch_sharding(mesh))

    return ijepa.Batch(
        array(*data.image_size, data.channels, dtype=jnp.uint8),
        Masks(
            context=array(*draws, spec.num_context),
            targets=array(*draws, spec.num_targets, spec.block_length),
            target_length=array(*draws, spec.num_targets),
        ),
    )


def _bytes(tree: Any) -> int:
    """What a tree takes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _wanted(message: str) -> dict[str, int]:
    """The temporary memory that the TPU compiler says it would have needed."""
    size = re.search(r"temporaries \(([\d.]+)([KMG])\)", message)
    return {TEMPORARY: int(float(size[1]) * _UNITS[size[2]])} if size else {}
