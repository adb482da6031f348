"""Checkpoints: what is kept, and that a damaged one is never used."""

import pathlib
import shutil
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jepa_jax.config import defaults
from jepa_jax.errors import RunFailed, UserError
from jepa_jax.training import loop
from jepa_jax.training.checkpoints import Checkpoints
from jepa_jax.training.checksums import checksums
from jepa_jax.training.guard import Diverged
from tests.damaging import (  # noqa: F401
    delete,
    files,
    flip,
    leftovers_collected,
    leftovers_ignored,
    truncate,
)

pytestmark = leftovers_ignored

ABOUT = {"config": {"seed": 0}}


def settings(**changes):
    train = defaults().train
    train.update({"checkpoint_every": 2, "checkpoints_kept": 2} | changes)
    return train


def state(step: int):
    values = jax.random.normal(jax.random.key(step), (3, 50))
    return {"step": jnp.int32(step), "kernel": values, "bias": values[0].astype(jnp.bfloat16)}


SHAPES = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ),
    state(0),
)


def saved(folder, steps, **changes) -> Checkpoints:
    checkpoints = Checkpoints(folder / "checkpoints", settings(**changes))
    for step in steps:
        checkpoints.save(step, state(step), ABOUT)
    checkpoints.wait()
    return checkpoints


def equal(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def names(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("two_steps")
    saved(folder, (2, 4))
    return folder


def test_what_is_restored_is_what_was_saved(two_steps):
    restored = Checkpoints(two_steps / "checkpoints", settings()).restore(SHAPES)
    assert restored.step == 4
    assert equal(restored.state, state(4))
    assert restored.about == ABOUT


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert Checkpoints(tmp_path / "checkpoints", settings()).restore(SHAPES) is None


def test_saving_goes_on_in_the_background(tmp_path, monkeypatch):
    original, let_go = ocp.StandardCheckpointHandler.finalize, threading.Event()

    def finalize(self, *args, **kwargs):
        assert let_go.wait(60)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", finalize)
    checkpoints = Checkpoints(tmp_path / "checkpoints", settings())
    checkpoints.save(2, state(2), ABOUT)
    assert not (tmp_path / "checkpoints" / "2").exists()
    let_go.set()
    checkpoints.wait()
    assert names(tmp_path) == [2]


def test_what_a_kill_left_behind_is_no_step_and_is_deleted(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints"
    (folder / "4").rename(folder / "4.orbax-checkpoint-tmp")
    assert Checkpoints(folder, settings()).restore(SHAPES).step == 2
    assert names(tmp_path) == [2]


def test_the_last_ones_and_multiples_are_kept(tmp_path):
    saved(tmp_path, range(1, 9), checkpoint_keep_every=3)
    assert names(tmp_path) == [3, 6, 7, 8]


@pytest.mark.parametrize(("name", "best"), [("knn", 3), ("loss", 2)])
def test_the_best_is_kept(tmp_path, name: str, best: int):
    checkpoints = Checkpoints(tmp_path / "checkpoints", settings(checkpoint_best=name))
    for step, scores in enumerate(
        ({"loss": 3}, {"loss": 1}, {"loss": 2, "knn": 0.9}, {"knn": 0.5}, {}, {}, {}), 1
    ):
        checkpoints.save(step, state(step), ABOUT)
        checkpoints.score(step, scores)
    checkpoints.wait()
    assert names(tmp_path) == [best, 6, 7]


def test_time_makes_a_save_due(tmp_path):
    patient = Checkpoints(tmp_path / "checkpoints", settings(checkpoint_minutes=60.0))
    assert [patient.due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    assert not patient.overdue()
    hasty = Checkpoints(tmp_path / "checkpoints", settings(checkpoint_minutes=1e-9))
    assert hasty.overdue()
    never = Checkpoints(tmp_path / "checkpoints", settings(checkpoint_minutes=0.0))
    assert not never.overdue()


def test_there_is_no_way_back_to_where_all_was_well(tmp_path):
    checkpoints = saved(tmp_path, (4, 6))
    run = SimpleNamespace(config=defaults(), ledger=MagicMock(), checkpoints=checkpoints)
    diverged = Diverged(step=8, before=3, batch=7, reason="features collapse", spoilt=True)
    with pytest.raises(RunFailed, match="collapse; no checkpoint is left of step 3 or before"):
        loop.roll_back(run, loop.Start(), diverged, display=None)
    assert names(tmp_path) == [4, 6]


@pytest.mark.parametrize("damage", [delete, truncate, flip])
def test_no_damage_passes_for_a_sound_step(two_steps, tmp_path, damage):
    """Each file in turn: what comes back is either the newest step, intact, or the one before."""
    rng = np.random.default_rng(0)
    fell_back = 0
    for number, file in enumerate(files(two_steps, 4)):
        folder = tmp_path / str(number)
        shutil.copytree(two_steps, folder)
        damage(folder / file.relative_to(two_steps), rng)
        said = []
        checkpoints = Checkpoints(folder / "checkpoints", settings(), said.append)
        restored = checkpoints.restore(SHAPES)
        assert equal(restored.state, state(restored.step)), file
        assert restored.about == ABOUT
        if restored.step == 2:
            fell_back += 1
            assert f"{folder / 'checkpoints' / '4'} is damaged: " in said[0]
            assert names(folder) == [2]
            assert (folder / "damaged" / "4").is_dir()
    assert fell_back >= 3, "the files that hold the state are at least three"


def test_a_step_can_be_saved_again_after_a_damaged_one(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    for file in files(tmp_path, 4):
        truncate(file, np.random.default_rng(0))
    checkpoints = Checkpoints(tmp_path / "checkpoints", settings())
    assert checkpoints.restore(SHAPES).step == 2
    checkpoints.save(4, state(4), ABOUT)
    checkpoints.wait()
    assert equal(checkpoints.restore(SHAPES).state, state(4))


def test_no_sound_step_at_all_is_an_error(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    for step in (2, 4):
        (tmp_path / "checkpoints" / str(step) / "about" / "metadata").unlink()
    checkpoints = Checkpoints(tmp_path / "checkpoints", settings())
    with pytest.raises(UserError, match=r"none of the checkpoints in .* the newest, 4: "):
        checkpoints.restore(SHAPES)
    assert names(tmp_path) == [2, 4]


DTYPES = ("float32", "bfloat16", "int32", "uint8", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_changed_element_changes_the_checksum(dtype: str):
    leaf, one = jnp.zeros((4, 5), dtype), jnp.ones((), dtype)
    sums = {checksums({"leaf": leaf.at[i // 5, i % 5].set(one)})["leaf"] for i in range(20)}
    assert len(sums) == 20


def test_swapped_elements_and_signs_of_zero_change_the_checksum():
    kinds = ([1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [1.0, 2.0, -0.0])
    sums = {checksums({"leaf": jnp.array(values)})["leaf"] for values in kinds}
    assert len(sums) == 3
