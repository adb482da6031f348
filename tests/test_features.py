"""Frozen features: the same on any mesh, in the order of the images."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jepa_jax.data.loader import evaluation_batches
from jepa_jax.data.sources import open_source
from jepa_jax.evaluation.features import Encode, collect, stream
from jepa_jax.ijepa import init
from jepa_jax.parallel.sharding import make_mesh, tree_sharding
from jepa_jax.training.setup import build_model
from tests.tiny import tiny

INDICES = [5, 3, 300, 8, 13, 21, 3, 34, 1, 0]


ON_EIGHT = """
import sys
import numpy as np
from tests.test_features import look, made

for name, shape in (("replica", (8, 1, 1)), ("all", (2, 2, 2))):
    found = look(*made(), shape, 64)
    np.savez(f"{sys.argv[1]}/{name}.npz", **found._asdict())
"""


def made():
    config = tiny()
    config.model.depth = 4
    model = build_model(config, steps_per_epoch=10)
    return model, init(model, jax.random.key(0), (8, 8, 1)).target


def look(model, target, shape, batch_size):
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    data = tiny().data
    source = open_source(data, "train")
    target = jax.device_put(target, tree_sharding(target, mesh))
    batches = evaluation_batches(source, data, batch_size, INDICES)
    return collect(stream(Encode(model, layers=4), target, batches, mesh))


@pytest.fixture(scope="module")
def model_and_target():
    return made()


@pytest.fixture(scope="module")
def alone(model_and_target):
    return look(*model_and_target, (1, 1, 1), 1)


def test_four_layers_on_eight_devices_in_a_batch_that_is_not_filled_equal_one_by_one(
    alone, tmp_path
):
    subprocess.run(
        [sys.executable, "-c", ON_EIGHT, tmp_path],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"},
        check=True,
    )
    assert alone.index.tolist() == INDICES
    assert alone.values.shape == (len(INDICES), 4 * 16)
    for name in ("replica", "all"):
        found = np.load(tmp_path / f"{name}.npz")
        assert found["index"].tolist() == INDICES
        np.testing.assert_allclose(found["values"], alone.values, atol=1e-5)


def test_rows_that_a_mesh_mixes_come_back_in_order(model_and_target, alone):
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    (batch,) = evaluation_batches(open_source(tiny().data, "train"), tiny().data, 16, INDICES)
    mixed = np.random.default_rng(0).permutation(16)
    mixed = {key: value[mixed] for key, value in batch.items()}
    model, target = model_and_target
    found = collect(stream(Encode(model), target, [mixed], mesh))
    assert found.index.tolist() == INDICES
    np.testing.assert_allclose(found.values, alone.values[:, -16:], atol=1e-5)


def test_pooled_features_are_the_mean_of_the_patches(model_and_target, alone):
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    batches = evaluation_batches(open_source(tiny().data, "train"), tiny().data, 5, INDICES)
    model, target = model_and_target
    patches = collect(stream(Encode(model, patches=True), target, batches, mesh)).values
    assert patches.shape == (10, 16, 16)
    np.testing.assert_allclose(patches.mean(1), alone.values[:, -16:], atol=1e-5)
