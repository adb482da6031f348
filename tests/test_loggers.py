"""Loggers: what reaches TensorBoard, Weights & Biases and MLflow, and that none stops a run."""

import importlib.util
import io
import json
import sys
import threading
import unittest.mock

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from jepa_jax.training import loggers
from jepa_jax.training.loggers import Loggers
from jepa_jax.validation import validate
from tests.bucket import new_bucket
from tests.tiny import tiny


def needs(package: str):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs {package}")


def log(name: str, folder, start: int = 0) -> list[str]:
    """Two steps, a picture and a histogram; returns what was said."""
    said = []
    Image.new("RGB", (8, 6), "red").save(folder / "masks.png")
    with Loggers([name], defaults(), folder, start, said.append) as all_of_them:
        for step in (start + 1, start + 2):
            all_of_them.scalars(step, {"step": step, "loss": 1 / step, "knn": None, "name": "x"})
        all_of_them.image(start + 2, "masks", folder / "masks.png")
        all_of_them.histogram(start + 2, "spectrum", np.arange(10.0))
    return said


def tensorboard_events(folder) -> list:
    """Those of all files, one after the other."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format's other side)

    events = []
    for file in sorted((folder / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # length, its checksum, record, its checksum
            length = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


@needs("tensorboardX")
def test_tensorboard(tmp_path):
    assert log("tensorboard", tmp_path) == []
    tags = {}
    for event in tensorboard_events(tmp_path):
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append((event.step, value))
    assert [(step, value.simple_value) for step, value in tags["loss"]] == [(1, 1.0), (2, 0.5)]
    assert (tags["masks"][0][1].image.height, tags["masks"][0][1].image.width) == (6, 8)
    assert tags["spectrum"][0][1].histo.num == 10
    assert "knn" not in tags


@needs("tensorboardX")
def test_tensorboard_hides_what_a_run_left_when_it_went_back(tmp_path):
    with Loggers(["tensorboard"], defaults(), tmp_path, 0, print) as all_of_them:
        for step in (1, 2, 3, 2):
            all_of_them.scalars(step, {"loss": 0.5})
    events = tensorboard_events(tmp_path)
    assert [event.step for event in events if event.HasField("session_log")] == [2]
    steps = [event.step for event in events if event.summary.value]
    assert steps == [0, 1, 2, 3, 2]  # 0: the config


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert log("wandb", tmp_path) == []
    first = (tmp_path / "wandb_id").read_text()
    assert log("wandb", tmp_path, start=2) == []
    assert (tmp_path / "wandb_id").read_text() == first
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{first}"))) >= 1


def test_wandb_gets_steps_that_go_back_as_values(tmp_path, monkeypatch):
    """What is logged with `step=` below an earlier one, it drops."""
    wandb = unittest.mock.MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    logger = loggers.WandB(epath.Path(tmp_path), defaults(), 0)
    for step in (2, 1):
        logger.scalars(step, {"loss": 0.5})
    run = wandb.init.return_value
    assert run.log.mock_calls == [unittest.mock.call({"loss": 0.5, "step": s}) for s in (2, 1)]
    run.define_metric.assert_called_with("*", step_metric="step")


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path.parent)
    before = set(tmp_path.parent.iterdir())
    assert log("mlflow", tmp_path) == []
    assert log("mlflow", tmp_path, start=2) == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    history = client.get_metric_history((tmp_path / "mlflow_id").read_text(), "loss")
    assert [point.step for point in history] == [1, 2, 3, 4]
    assert list((tmp_path / "mlflow").rglob("*.png"))
    assert set(tmp_path.parent.iterdir()) == before


class Recorder:
    """A logger that keeps what it gets, and fails if it is told to."""

    got = None

    def __init__(self, folder, config, start):
        Recorder.got = []

    def scalars(self, step, values):
        if step == 3:
            raise SystemExit("no more\nand more lines")
        self.got.append((step, values))

    def close(self):
        self.got.append("closed")


def record(steps: int) -> list[str]:
    said = []
    kinds = {"recorder": (Recorder, "numpy")}
    with Loggers(["recorder"], defaults(), "runs", 0, said.append, kinds) as all_of_them:
        for step in range(1, steps + 1):
            all_of_them.scalars(step, {"loss": 0.5, "bad": float("nan")})
    return said


def test_what_is_not_finite_is_left_out():
    assert record(2) == []
    assert Recorder.got == [(1, {"loss": 0.5}), (2, {"loss": 0.5}), "closed"]


def test_one_that_fails_is_told_once_and_left_out():
    assert record(5) == [
        "warning: recorder gets nothing any more (SystemExit: no more); the run goes on"
    ]
    assert Recorder.got[2:] == ["closed"]


def test_the_first_error_is_the_one_that_is_told(monkeypatch):
    monkeypatch.setattr(Recorder, "close", lambda self: 1 / 0)
    assert "(SystemExit: no more)" in record(5)[0]
    assert "(ZeroDivisionError: " in record(2)[0]


def test_one_that_hangs_delays_nothing(monkeypatch):
    monkeypatch.setattr(loggers, "PENDING", 3)
    monkeypatch.setattr(loggers, "LAST_WORDS", 0.1)
    release = threading.Event()
    said = []
    kinds = {"stuck": (lambda *_: release.wait(60), "numpy")}
    with Loggers(["stuck"], defaults(), "runs", 0, said.append, kinds) as all_of_them:
        for step in range(5):
            all_of_them.scalars(step, {"loss": 0.5})
    release.set()
    assert said == ["warning: stuck gets nothing any more (it is too slow); the run goes on"]


def test_pictures_and_mlflow_in_a_bucket(monkeypatch):
    folder = new_bucket(monkeypatch)
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "png")
    (folder / "masks.png").write_bytes(file.getvalue())
    assert loggers._picture(folder / "masks.png").size == (8, 6)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="write to gs://bucket/run: set MLFLOW_TRACKING_URI"):
        loggers.check_place(["mlflow"], folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost")
    loggers.check_place(["mlflow"], folder)


def test_an_unknown_logger_is_answered_with_the_nearest():
    c = tiny()
    c.logging.to = "wandb,tensorbord"
    with pytest.raises(UserError, match=r"logging.to='tensorbord' is none of .*tensorboard"):
        validate(c)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jepa_jax\[wandb\]'"):
        loggers.check_loggers(["wandb"])


@needs("tensorboardX")
def test_a_run_writes_them(tmp_path):
    from jepa_jax.training.loop import FINISHED, train

    c = tiny()
    c.train.epochs, c.train.warmup_epochs = 2 / 22, 0.0
    c.probe.compare, c.probe.train_images, c.probe.test_images = False, 200, 200
    c.doctor.every = 2
    c.logging.to = "tensorboard"
    assert train(c, str(tmp_path)) == FINISHED
    (file,) = (tmp_path / "tensorboard").iterdir()
    written = file.read_bytes()
    assert b"loss" in written
    assert b"knn" in written  # of the end: there is no probe before
    assert b"log10_eigenvalues" in written
    assert b"features" in written  # the picture
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2]
