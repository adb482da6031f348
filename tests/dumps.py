"""What lies where, and what is sent, for each recipe: written down, so that a change is seen.

    python -m tests.dumps            # all of it, with jax[tpu]: most of an hour on 2 cores
    python -m tests.dumps digits     # of these recipes alone
    git diff tests/fixtures          # what has changed

fixtures/shardings/RECIPE.txt has a line for each array of the state; its mesh has every axis.
fixtures/compiled/RECIPE.TOPOLOGY.json is what the TPU compiler made of the step.
"""

import json
import pathlib
import runpy
import sys
from importlib import metadata
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.compilation.chips import topology_devices
from jepa_jax.compilation.step import compile_step
from jepa_jax.config import mesh_shape
from jepa_jax.parallel.sharding import AXES, tree_sharding
from jepa_jax.training.setup import build_model
from jepa_jax.validation import validate

ROOT = pathlib.Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
SHARDINGS = ROOT / "tests" / "fixtures" / "shardings"
COMPILED = ROOT / "tests" / "fixtures" / "compiled"

# recipe, topology, mesh.fsdp
COMPILATIONS = (
    ("digits", "v5e:2x2", 4),
    ("digits", "2xv5e:2x2", 4),
    ("vitb16", "2xv5e:4x4", 16),
    ("vitl16", "v5e:4x4", 16),
    ("vitl16", "v6e:4x4", 16),
    ("vith14", "v5e:16x16", 16),
    ("vith14", "v5p:4x4x8", 16),
    ("vith16_448", "v5p:4x4x8", 16),
    ("vitg16_in22k", "v5p:4x4x8", 16),
    ("vitg16_in22k", "v6e:16x16", 16),
    ("vitg16_in22k", "v4:4x4x4", 16),
)


def recipe(name: str) -> ConfigDict:
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def shardings(name: str) -> str:
    """Path, type and shape of each leaf of the state, and the mesh axis that splits each axis."""
    config = recipe(name)
    mesh = AbstractMesh((2, 2, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    model = build_model(config, steps_per_epoch=1)
    image = (*config.data.image_size, config.data.channels)
    shapes = jax.eval_shape(lambda: ijepa.init(model, jax.random.key(0), image))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    places = jax.tree.leaves(tree_sharding(shapes, mesh))
    lines = []
    for (path, leaf), place in zip(leaves, places, strict=True):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        size = ",".join(map(str, leaf.shape))
        spec = ",".join(str(axis or "-") for axis in place.spec)
        lines.append(f"{where} {leaf.dtype}[{size}] ({spec})\n")
    return "".join(lines)


def compilation(name: str, topology: str, fsdp: int) -> dict[str, Any]:
    """Memory by kind and collectives, in bytes a chip."""
    config = recipe(name)
    config.mesh.fsdp = fsdp
    devices, chip = topology_devices(topology)
    validate(config, len(devices))
    compiled = compile_step(config, devices)
    return {
        "compiler": {package: metadata.version(package) for package in ("jax", "libtpu")},
        "mesh": dict(zip(AXES, mesh_shape(config, len(devices)), strict=True)),
        "fits": compiled.fits(chip.memory),
        "memory": compiled.memory,
        "collectives": {kind: found._asdict() for kind, found in compiled.traffic.items()},
    }


def compiled_file(name: str, topology: str) -> pathlib.Path:
    return COMPILED / f"{name}.{topology.replace(':', '-')}.json"


def main(names: list[str]):
    for name in names:
        (SHARDINGS / f"{name}.txt").write_text(shardings(name))
    for name, topology, fsdp in COMPILATIONS:
        if name in names:
            text = json.dumps(compilation(name, topology, fsdp), indent=1)
            compiled_file(name, topology).write_text(text + "\n")
            print(compiled_file(name, topology).relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or RECIPES)
