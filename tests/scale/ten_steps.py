"""Ten steps of the smallest recipe, however eight devices share them: prints the losses, as JSON.

    ten_steps.py FOLDER [PROCESS PROCESSES PORT]

One process runs every way of sharing, saves half-way, and goes on from what another way has saved.
Several processes run the mixed one.
"""

import functools
import itertools
import json
import math
import pathlib
import sys

import jax
import numpy as np

from jepa_jax import ijepa, masks
from jepa_jax.config import mask_spec
from jepa_jax.parallel.sharding import batch_sharding, make_mesh, tree_sharding
from jepa_jax.training.checkpoints import Checkpoints, with_sharding
from jepa_jax.training.setup import build_model, jit_step
from tests.tiny import tiny

MESHES = {
    "one device": (1, 1, 1),
    "replica": (8, 1, 1),
    "fsdp": (1, 8, 1),
    "mixed": (2, 2, 2),
}
SAME = {  # mesh and settings that change how, and not what, is computed
    **{name: (name, {}) for name in MESHES},
    "mixed in parts": ("mixed", {"train.accumulate": 4}),
    "mixed, recomputed": ("mixed", {"model.remat": "full"}),
}
# VICReg's terms, of each part of a batch and over all devices.
TERMS = {"regularizer.variance": 0.5, "regularizer.covariance": 0.05, "train.accumulate": 2}
OTHERWISE = {  # settings that change what is computed, for which one device is the measure
    "with terms": TERMS,
    "in float8": {"model.target_dtype": "float8_e4m3fn"},
}
CHANGED = {
    f"{mesh}, {what}": (mesh, changes)
    for what, changes in OTHERWISE.items()
    for mesh in ("one device", "mixed")
}
HALF, LAST = 5, 10


class Way:
    """One of those in SAME or CHANGED."""

    def __init__(self, name: str):
        mesh, changes = (SAME | CHANGED)[name]
        self.config = tiny()
        self.config.train.warmup_epochs = 0.0
        self.config.update_from_flattened_dict(changes)
        shape = MESHES[mesh]
        self.mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
        self.model = build_model(self.config, 10)
        fresh = functools.partial(ijepa.init, self.model, jax.random.key(0), (8, 8, 1))
        shapes = jax.eval_shape(fresh)
        self.sharding = tree_sharding(shapes, self.mesh)
        self.shapes = with_sharding(shapes, self.sharding)
        self.fresh = jax.jit(fresh, out_shardings=self.sharding)
        self.step = jit_step(self.sharding)

    def losses(self, state: ijepa.State, first: int, last: int) -> tuple[ijepa.State, list[float]]:
        found = []
        for number in range(first, last):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 8, 8, 1), np.uint8)
            drawn = masks.sample(jax.random.key(number), mask_spec(self.config), 64)
            batch = jax.tree.map(np.asarray, ijepa.Batch(pixels, drawn))
            batch = jax.device_put(batch, batch_sharding(self.mesh))
            with jax.set_mesh(self.mesh):
                state, metrics = self.step(self.model, state, batch)
            found.append(float(metrics.loss))
        return state, found

    def checkpoints(self, folder: pathlib.Path) -> Checkpoints:
        return Checkpoints(folder, self.config.train)


def alone(folder: pathlib.Path) -> dict[str, list[float]]:
    ways, losses = {name: Way(name) for name in (*SAME, *CHANGED)}, {}
    for name, way in ways.items():
        state, before = way.losses(way.fresh(), 0, HALF)
        if name in MESHES:
            saved = way.checkpoints(folder / name)
            saved.save(HALF, state, {})
            saved.wait()
        _, after = way.losses(state, HALF, LAST)
        losses[name] = before + after
    for saved, name in itertools.permutations(MESHES, 2):
        way = ways[name]
        state = way.checkpoints(folder / saved).restore(way.shapes).state
        losses[f"from {saved} to {name}"] = way.losses(state, HALF, HALF + 2)[1]
    return losses


def together() -> dict[str, list[float]]:
    way = Way("mixed")
    return {"mixed": way.losses(way.fresh(), 0, LAST)[1]}


if __name__ == "__main__":
    folder, *processes = sys.argv[1:]
    if processes:
        process, number, port = map(int, processes)
        jax.distributed.initialize(f"localhost:{port}", number, process)
    print(json.dumps(together() if processes else alone(pathlib.Path(folder))))
