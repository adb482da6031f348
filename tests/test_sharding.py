"""What is split along the mesh, and that splitting does not change what is learned."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from jepa_jax import ijepa
from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from jepa_jax.parallel import sharding
from jepa_jax.parallel.placement import check_split, placement_table
from jepa_jax.training.setup import build_model
from tests.slices import slices

ROOT = pathlib.Path(__file__).parents[1]


def mesh(replica: int, fsdp: int, tensor: int) -> AbstractMesh:
    shape = (replica, fsdp, tensor)
    return AbstractMesh(shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.fixture(scope="module")
def shapes() -> ijepa.State:
    model = build_model(defaults(), 100)
    return jax.eval_shape(lambda: ijepa.init(model, jax.random.key(0), (224, 224, 3)))


@pytest.mark.parametrize("ways", [(1, 8, 1), (1, 1, 4), (2, 2, 2)])
def test_nearly_everything_is_split(shapes, ways: tuple[int, int, int]):
    whole = mesh(*ways)
    placed = sharding.tree_sharding(shapes, whole)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    replicated = sum(
        leaf.size
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True)
        if place.is_fully_replicated
    )
    # Under tensor parallelism alone the embeddings and outputs stay whole.
    assert replicated / total < (0.02 if ways[1] > 1 else 0.03)


def test_moments_lie_with_their_parameters(shapes):
    placed = sharding.tree_sharding(shapes, mesh(1, 4, 2))
    jax.tree.map(
        lambda parameter, moment: np.testing.assert_equal(parameter.spec, moment.spec),
        placed.params,
        placed.opt_state.mu,
    )


def test_a_mesh_that_does_not_divide_is_named(shapes):
    with pytest.raises(UserError, match=r"kernel .* does not split into mesh.tensor=5"):
        sharding.tree_sharding(shapes, mesh(1, 1, 5))


def test_pixels_that_fsdp_does_not_divide_are_split_by_rows():
    shape = {"predictor": {"output": {"kernel": jax.ShapeDtypeStruct((384, 588), "float32")}}}
    (place,) = jax.tree.leaves(sharding.tree_sharding(shape, mesh(1, 16, 1)))
    assert place.shard_shape((384, 588)) == (24, 588)
    (place,) = jax.tree.leaves(sharding.tree_sharding(shape, mesh(1, 4, 1)))
    assert place.shard_shape((384, 588)) == (384, 147)


def test_the_mesh_that_compile_s_help_names_divides(shapes):
    example = re.search(r"--config\.mesh\.fsdp=(\d+)", (ROOT / "launch/compile.py").read_text())
    sharding.tree_sharding(shapes, mesh(1, int(example[1]), 1))


def test_too_much_that_is_not_split_stops_the_run():
    names = {"new/kernel": (2000, 1000), "mlp/hidden/kernel": (4, 1000, 1000)}
    params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in names.items()}
    with pytest.raises(UserError, match=r"33% of the parameters .* new/kernel: name it") as caught:
        check_split(params, sharding.tree_sharding(params, mesh(1, 4, 1)))
    assert "\n" not in str(caught.value)
    check_split(params, sharding.tree_sharding(params, mesh(4, 1, 1)))


@pytest.mark.parametrize("ways", [(1, 8, 1), (2, 2, 2)])
def test_recipes_are_split_enough(shapes, ways: tuple[int, int, int]):
    check_split(shapes.params, sharding.tree_sharding(shapes.params, mesh(*ways)))


def test_the_table_adds_up_to_the_state(shapes):
    table = placement_table(shapes, sharding.tree_sharding(shapes, mesh(1, 8, 1)))
    by, arrays, values, _ = (list(column.cells) for column in table.columns)
    assert by == ["fsdp", "on every device"]
    assert sum(map(int, arrays)) == len(jax.tree.leaves(shapes))
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
    assert sum(map(float, values)) == pytest.approx(total, abs=0.02)


@pytest.mark.parametrize("inner", [(16, 1), (8, 1), (2, 4), (1, 1)])
def test_only_replicas_lie_on_different_slices(inner: tuple[int, int]):
    replica = 32 // (inner[0] * inner[1])
    whole = sharding.make_mesh((replica, *inner), slices(2))
    assert len({chip.id for chip in whole.devices.flat}) == 32
    found = [{chip.slice_index for chip in each.flat} for each in whole.devices]
    assert found == [{0}] * (replica // 2) + [{1}] * (replica // 2)


@pytest.mark.parametrize("shape", [(1, 32, 1), (1, 2, 16), (1, 16, 2)])
def test_a_slice_too_small_for_a_copy_is_named(shape: tuple[int, int, int]):
    with pytest.raises(UserError, match=r"= 32 must divide the 16 chips of a slice: "):
        sharding.make_mesh(shape, slices(2))


def test_nodes_of_gpus_may_share_a_copy():
    gpus = [
        dataclasses.replace(chip, platform="gpu", device_kind="H100", slice_index=chip.id // 8)
        for chip in reversed(slices(1))  # as they come where processes are numbered otherwise
    ]
    whole = sharding.make_mesh((1, 16, 1), gpus)
    assert [chip.id for chip in whole.devices.flat] == list(range(16))


@pytest.mark.parametrize(
    ("shape", "parts"), [((2, 16, 1), 8), ((8, 4, 1), 8), ((8, 2, 2), 8), ((4, 1, 8), 4)]
)
def test_every_part_of_a_batch_is_fed_by_those_who_hold_it(shape: tuple[int, int, int], parts: int):
    """Along the ring of a slice, the rows of a host are not neighbours."""
    whole = sharding.make_mesh(shape, slices(2))
    fed = {host: sharding.process_share(whole, host) for host in range(8)}
    assert set(fed.values()) == {(part, parts) for part in range(parts)}
    for row in whole.devices.reshape(-1, shape[2]):
        assert len({fed[chip.process_index] for chip in row}) == 1


LOSSES = """
import json, sys
from tests.test_train import tiny, rows
from jepa_jax.training.loop import train
import pathlib
import re
folder = pathlib.Path(sys.argv[1])
config = tiny()
config.data.test_split = ""
config.train.epochs = 3 / 22
config.mesh.replica, config.mesh.fsdp, config.mesh.tensor = 1, 2, 2
assert train(config, str(folder / "mixed")) == 0
losses = [row["loss"] for row in rows(folder / "mixed")]
(folder / "losses.json").write_text(json.dumps(losses))
"""


def test_a_whole_run_on_a_mesh_learns_the_same(tmp_path):
    from jepa_jax.training.loop import train
    from tests.test_train import rows, tiny

    config = tiny()
    config.data.test_split = ""
    config.train.epochs = 3 / 22
    assert train(config, str(tmp_path / "one")) == 0
    expected = [row["loss"] for row in rows(tmp_path / "one")]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    result = subprocess.run(
        [sys.executable, "-c", LOSSES, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "State by the mesh axes that split it" in result.stdout
    losses = json.loads((tmp_path / "losses.json").read_text())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
