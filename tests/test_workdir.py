"""The folder of a run, also in a bucket."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from etils import epath

from jepa_jax.config import defaults
from jepa_jax.errors import StorageError, UserError
from jepa_jax.training.changes import Change
from jepa_jax.training.storage import absolute
from jepa_jax.training.store import Store
from jepa_jax.training.workdir import Workdir, storage_of
from tests.bucket import new_bucket


@pytest.fixture(params=["local", "bucket"])
def folder(request, tmp_path, monkeypatch) -> epath.Path:
    return new_bucket(monkeypatch) if request.param == "bucket" else epath.Path(tmp_path)


def test_all_that_a_run_writes_is_found_again(folder):
    first = Workdir(folder)
    first.claim(defaults(), [Change("optim.eps", 1, 2)], ["optim.eps"])
    for step in (1, 2, 3):
        first.append({"step": step, "loss": 1.0})
    first.amend(2, {"knn": 0.5})
    first.append_broken({"step": 2, "index": 7, "problem": "no image"})
    first.forget_after(2, 2)
    first.finish({"step": 2, "accuracy": {}})

    again = Workdir(folder)
    assert again.config()["seed"] == 0
    assert again.forced() == {"optim.eps"}
    assert again.rows() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0, "knn": 0.5}]
    assert [row["index"] for row in again.broken()] == [7]
    assert again.results() == {"step": 2, "accuracy": {}}


def test_broken_images_are_forgotten_where_the_images_changed(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.append_broken({"step": 2, "index": 7, "problem": "no image"})
    workdir.claim(defaults(), [Change("train.epochs", 1, 2)], [])
    assert len(Workdir(tmp_path).broken()) == 1
    workdir.claim(defaults(), [Change("data", "300 images", "297 images")], ["data"])
    assert Workdir(tmp_path).broken() == []
    assert workdir.forced() == {"data"}


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_jax.training.workdir.PATIENCE", 0.1)
    program = (
        "import sys, time; from jepa_jax.training.workdir import Workdir\n"
        "with Workdir(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match="another process is training"),
            Workdir(tmp_path).lock(),
        ):
            pass
        with Workdir(tmp_path, writes=False).lock():
            pass
        process.kill()
        monkeypatch.setattr("jepa_jax.training.workdir.PATIENCE", 60)
        with Workdir(tmp_path).lock():  # waits for its end
            pass
    with Workdir(tmp_path).lock():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_where_there_are_no_locks_it_goes_without(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Workdir(tmp_path).lock(), Workdir(tmp_path).lock():
        pass


def test_a_damaged_checkpoint_can_be_moved_aside(folder):
    step = folder / "checkpoints" / "3"
    (step / "state").mkdir(parents=True)
    (step / "state" / "manifest").write_text("nonsense")
    place = Store(folder / "checkpoints", defaults().train).put_aside(3)
    assert place == folder / "damaged" / "3"
    assert (place / "state" / "manifest").read_text() == "nonsense"
    assert not step.exists()


@pytest.mark.parametrize(
    ("module", "expected"), [("gcsfs.retry", StorageError), ("builtins", ValueError)]
)
def test_only_what_storage_raises_is_an_error_of_storage(module: str, expected: type[Exception]):
    error = type("HttpError", (ValueError,), {"__module__": module})("Backend Error, 503")
    with pytest.raises(expected, match="503") as raised, storage_of("a file"):
        raise error
    assert (raised.type is StorageError) == (expected is StorageError)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("gs://bucket/run", "gs://bucket/run"), ("runs/a", f"{os.getcwd()}/runs/a")],
)
def test_a_path_in_a_bucket_is_absolute(path: str, expected: str):
    assert str(absolute(epath.Path(path))) == expected
