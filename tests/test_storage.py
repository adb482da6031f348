"""Storage that fails: the run goes on, tries again, and ends with a clear error.

Saving fails for real: a file lies where the folder of checkpoints was.
"""

import contextlib
import errno
import itertools
import json
import logging
import pathlib
import re
import sys
import time
import types

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jepa_jax.errors import StorageError, UserError
from jepa_jax.training import checkpoints, loop, storage, store
from jepa_jax.training.checkpoints import Checkpoints
from jepa_jax.training.loop import FINISHED, train
from jepa_jax.training.storage import Damaged, is_storage_failure, side_by_side
from tests.damaging import leftovers_collected, leftovers_ignored  # noqa: F401
from tests.test_checkpoints import ABOUT, SHAPES, equal, names, settings, state
from tests.tiny import tiny

pytestmark = leftovers_ignored


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(storage, "FIRST", 0.0)
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0, 0.0))


@contextlib.contextmanager
def unreachable(folder: pathlib.Path):
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("")
    yield
    folder.unlink()
    aside.rename(folder)


def test_a_failed_save_is_done_again_and_the_last_ones_are_kept(tmp_path):
    said, happened = [], []
    folder = tmp_path / "checkpoints"

    def record(event, **fields):
        happened.append((event, fields["step"]))

    kept = Checkpoints(folder, settings(), said.append, record)
    for step in (1, 2, 3):
        kept.save(step, state(step), ABOUT)
    kept.wait()
    with unreachable(folder):
        for step in (4, 5):
            kept.save(step, state(step), ABOUT)
        assert kept.latest() == 3
        assert not kept.due(6)
        assert kept.overdue()
    kept.save(7, state(7), ABOUT)
    kept.wait()
    assert names(tmp_path) == [3, 7]
    assert equal(kept.restore(SHAPES).state, state(7))
    assert "step 4 could not be saved (" in said[0]
    assert "); the last good checkpoint is of step 3, 0 minutes ago; trying again in" in said[0]
    assert said[-1] == "step 7 is saved, after 2 failures"
    assert happened == [
        ("checkpoint_failed", 4),
        ("checkpoint_failed", 5),
        ("checkpoint_works_again", 7),
    ]


def test_between_two_tries_time_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST", 60.0)
    kept = Checkpoints(tmp_path / "checkpoints", settings())
    with unreachable(tmp_path / "checkpoints"):
        kept.save(2, state(2), ABOUT)
    assert not kept.due(4, wanted=True)
    assert not kept.overdue()


def test_back_off_doubles_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(storage, "FIRST", 10.0)
    back_off, waits = storage.BackOff(), []
    for _ in range(8):
        back_off.failed()
        waits.append(round(back_off.seconds()))
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail_in_background(monkeypatch, times: int, error: Exception = FULL) -> None:
    """In the thread in which orbax ends what it saves."""
    original, calls = ocp.StandardCheckpointHandler.finalize, itertools.count()

    def finalize(self, *args, **kwargs):
        if next(calls) < times:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "finalize", finalize)


def test_a_failure_in_the_background_is_noticed_and_costs_no_older_step(tmp_path, monkeypatch):
    said = []
    kept = Checkpoints(tmp_path / "checkpoints", settings(checkpoints_kept=1), said.append)
    kept.save(2, state(2), ABOUT)
    kept.wait()
    fail_in_background(monkeypatch, 1)
    kept.save(4, state(4), ABOUT)
    give_up = time.monotonic() + 60
    while not kept.overdue() and time.monotonic() < give_up:
        time.sleep(0.01)
    assert "step 4 could not be saved ([Errno 28] No space left on device)" in said[0]
    assert names(tmp_path) == [2]
    kept.save(5, state(5), ABOUT)
    kept.wait()
    assert names(tmp_path) == [5]


@pytest.mark.parametrize(("error", "logged"), [(FULL, False), (TypeError("mistake"), True)])
def test_what_orbax_logs_of_failing_storage_is_left_out(tmp_path, monkeypatch, error, logged):
    """And that alone: who looks for a mistake in a program needs to see where it is."""
    records = []
    kept = Checkpoints(tmp_path / "checkpoints", settings(), lambda line: None)
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "callHandlers", records.append)
    fail_in_background(monkeypatch, 1, error)
    kept.save(1, state(1), ABOUT)
    kept.wait()
    assert any(record.exc_info for record in records) == logged


def test_the_age_of_the_last_good_one_ends_it(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", settings(checkpoint_max_age_minutes=1e-9))
    kept.save(2, state(2), ABOUT)
    kept.wait()
    with unreachable(tmp_path / "checkpoints"):
        for step in range(3, 2 + checkpoints.ENOUGH):
            kept.save(step, state(step), ABOUT)
        with pytest.raises(StorageError, match=r"checkpoint is of step 2, 0 minutes ago, which is"):
            kept.save(9, state(9), ABOUT)


@pytest.mark.parametrize("hurry", [False, True])
def test_the_last_step_is_tried_again_and_again(tmp_path, monkeypatch, hurry: bool):
    fail_in_background(monkeypatch, 3)
    kept = Checkpoints(tmp_path / "checkpoints", settings())
    kept.save_last(5, state(5), ABOUT, lambda: hurry)
    assert names(tmp_path) == [5]


def test_who_waits_to_save_tells_that_it_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FIRST", 0.05)
    fail_in_background(monkeypatch, 2)
    kept, told = Checkpoints(tmp_path / "checkpoints", settings()), []
    kept.save_last(5, state(5), ABOUT, lambda: False, lambda: told.append("waiting"))
    assert told == ["waiting"] * 2


def test_in_a_hurry_it_is_given_up(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints", settings())
    with (
        unreachable(tmp_path / "checkpoints"),
        pytest.raises(StorageError, match="step 5 could not be saved; there is no checkpoint yet"),
    ):
        kept.save_last(5, state(5), ABOUT, lambda: True)


DENIED = PermissionError(errno.EACCES, "Permission denied")


def of_bucket(module: str, name: str) -> Exception:
    """What a client of a bucket raises; here without the client."""
    return type(name, (Exception,), {"__module__": module})("We encountered an error, 503")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DENIED, True),
        (OSError(errno.EIO, "Input/output error"), True),
        (TimeoutError(), True),
        (ValueError("PERMISSION_DENIED: Error opening …"), True),
        (ValueError("UNKNOWN: Error reading …: Input/output error"), True),
        (of_bucket("gcsfs.retry", "HttpError"), True),
        (of_bucket("google.auth.exceptions", "RefreshError"), True),
        (of_bucket("aiohttp.client_exceptions", "ServerDisconnectedError"), True),
        (of_bucket("tensorflow.python.framework.errors_impl", "NotFoundError"), False),
        (of_bucket("google.protobuf.message", "DecodeError"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (FileNotFoundError("File about/metadata not found."), False),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory"), False),
        (ValueError("DATA_LOSS: Error reading …: CRC32C checksum verification failed"), False),
        (json.JSONDecodeError("Expecting value", "", 0), False),
    ],
)
def test_failing_storage_is_told_from_damage(error: Exception, expected: bool):
    assert is_storage_failure(error) is expected
    wrapped = RuntimeError("restoring failed")
    wrapped.__cause__ = error
    assert is_storage_failure(wrapped) is expected


def refuse_to_read(monkeypatch, times: int, error: Exception = DENIED) -> None:
    original, calls = ocp.CheckpointManager.restore, itertools.count()

    def restore(self, *args, **kwargs):
        if next(calls) < times:
            raise error
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)


def two_steps(folder: pathlib.Path) -> Checkpoints:
    kept = Checkpoints(folder / "checkpoints", settings())
    for step in (2, 4):
        kept.save(step, state(step), ABOUT)
    kept.wait()
    return kept


def test_a_sound_step_that_cannot_be_read_for_a_moment_is_used(tmp_path, monkeypatch):
    kept = two_steps(tmp_path)
    refuse_to_read(monkeypatch, 2)
    assert kept.restore(SHAPES).step == 4


@pytest.mark.parametrize("denied", [DENIED, of_bucket("gcsfs.retry", "HttpError")])
@pytest.mark.parametrize("error", [None, FileNotFoundError("it seems to be missing")])
def test_a_step_that_cannot_be_read_is_left_where_it_is(tmp_path, monkeypatch, error, denied):
    kept = two_steps(tmp_path)
    refuse_to_read(monkeypatch, 100, error or denied)

    def touch_all(path):
        raise denied

    monkeypatch.setattr(store, "touch_all", touch_all)
    with pytest.raises(StorageError, match=r"checkpoints/4 cannot be read \(.*(denied|503)"):
        kept.restore(SHAPES)
    assert names(tmp_path) == [2, 4]


FULL_DEVICE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FULL_DEVICE, "does not fit into memory: take more devices or a larger mesh.fsdp"),
        (MemoryError(), "does not fit into memory"),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA error"), "CUDA error"),
        (RuntimeError("can't start new thread"), "new thread"),
    ],
)
def test_a_machine_that_fails_is_no_damage_and_no_failing_storage(
    tmp_path, monkeypatch, error, expected
):
    kept = two_steps(tmp_path)
    refuse_to_read(monkeypatch, 1, error)
    with pytest.raises(Exception, match=expected) as raised:
        kept.restore(SHAPES)
    assert raised.type is (UserError if "memory" in expected else type(error))
    assert names(tmp_path) == [2, 4]


def test_training_goes_on_while_it_cannot_save(tmp_path, monkeypatch, capsys):
    config = tiny()
    config.data.test_split = ""
    config.train.epochs, config.train.warmup_epochs = 9 / 22, 0.0
    config.train.log_every, config.train.checkpoint_every = 1, 2
    original, stack = loop.Display.update, contextlib.ExitStack()

    def update(self, row):
        original(self, row)
        if row["step"] == 3:
            give_up = time.monotonic() + 60
            while not (tmp_path / "checkpoints" / "2").exists() and time.monotonic() < give_up:
                time.sleep(0.01)
            stack.enter_context(unreachable(tmp_path / "checkpoints"))
        if row["step"] == 6:
            stack.close()

    monkeypatch.setattr(loop.Display, "update", update)
    assert train(config, str(tmp_path)) == FINISHED
    said = capsys.readouterr().out
    assert "warning: step 4 could not be saved (" in said
    assert re.search(r"step [67] is saved, after \d failures", said)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    run = loop.prepare(config, str(tmp_path))
    assert loop.restore(run)[1].step == 9
    assert np.isfinite(jax.device_get(rows[-1]["loss"]))


def test_reads_that_nobody_waits_for_any_more_are_silent(monkeypatch):
    told = []
    late, other = (
        types.SimpleNamespace(exc_value=RuntimeError(text))
        for text in ("Event loop is closed", "?")
    )
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    usual = sys.unraisablehook
    with side_by_side():
        pass
    assert sys.unraisablehook is usual
    with pytest.raises(Damaged), side_by_side():
        raise Damaged
    for unraisable in (late, other):
        sys.unraisablehook(unraisable)
    assert told == [other]
