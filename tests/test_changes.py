"""A run that is asked for with other settings, images or packages than it is stored with."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.optim import Schedules
from jepa_jax.training.about import data_identity
from jepa_jax.training.changes import find_changes, refuse, schedule_change
from jepa_jax.training.loop import FINISHED, train
from tests.tiny import tiny

STEPS = 4  # of an epoch
IMAGES = np.random.default_rng(0).integers(0, 255, (STEPS * 16, 8, 8), dtype=np.uint8)


def stored(**config) -> dict:
    return {
        "config": {"seed": 0, "optim": {"learning_rate": 0.1, "b1": 0.9}, "mesh": {"fsdp": 1}}
        | config,
        "versions": {"jax": "1.0"},
        "mesh": {"fsdp": 1, "processes": 1},
        "data": {"examples": 10, "sample": "abc"},
    }


def names(old: dict, new: dict) -> list[str]:
    return [change.name for change in find_changes(old, new)]


def test_all_parts_are_compared():
    new = stored(seed=1, mesh={"fsdp": -1}) | {
        "versions": {"jax": "1.1"},
        "mesh": {"fsdp": 2, "processes": 2},
        "data": {"examples": 11, "sample": "abc"},
    }
    assert names(stored(), new) == ["data", "mesh.fsdp", "mesh.processes", "seed", "versions.jax"]


def test_a_mesh_that_comes_to_the_same_is_no_difference():
    assert names(stored(), stored(mesh={"fsdp": -1})) == []


def test_a_setting_that_is_new_or_gone_is_a_difference():
    assert names(stored(), stored(loss="l1")) == ["loss"]
    assert names(stored(loss="l1"), stored()) == ["loss"]


def test_a_setting_that_is_new_in_this_version_and_as_it_was_is_no_difference():
    assert names(stored(), stored(loss="smooth_l1")) == []
    assert names(stored(), stored(regularizer={"variance": 0.0})) == []


def refused(old: dict, new: dict, force=(), before=()) -> str | None:
    try:
        refuse(find_changes(old, new), force, before, "runs/a")
    except UserError as error:
        return str(error)


OTHER = stored(optim={"learning_rate": 0.2, "b1": 0.8}, train={"epochs": 2.0})


def test_what_is_refused_is_named_with_what_would_force_it():
    message = refused(stored(), OTHER)
    assert "optim.b1: 0.9 -> 0.8; optim.learning_rate: 0.1 -> 0.2)" in message
    assert message.endswith("--force=optim.b1,optim.learning_rate")
    assert refused(stored(), OTHER, force=["optim.b1", "optim.learning_rate"]) is None
    assert "(optim.b1: 0.9 -> 0.8)" in refused(stored(), OTHER, force=["optim.learning_rate"])


@pytest.mark.parametrize(
    ("new", "name", "message"),
    [
        (OTHER, "optim.learning_rat", "optim.b1, optim.learning_rate; did you mean 'optim.learn"),
        (OTHER, "seed", "what differs is optim.b1, optim.learning_rate"),
        (stored(), "optim.b1", "nothing differs"),
    ],
)
def test_forcing_what_does_not_differ_is_an_error(new: dict, name: str, message: str):
    assert message in refused(stored(), new, force=[name])


def test_parts_of_a_mixture_may_lie_elsewhere_if_they_are_the_same(tmp_path):
    def run(folder: str, weights: tuple[float, float], order: int = 1) -> dict:
        parts = [
            {"source": "npz", "path": f"{tmp_path}/{folder}/{name}.npz", "weight": weight}
            for name, weight in zip("ab", weights, strict=True)
        ][::order]
        data = ConfigDict({"source": "mixture", "mixture": parts, "train_split": "train"})
        data.test_split = ""
        return stored(data=data.to_dict()) | {"data": data_identity(open_source(data, "train"))}

    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", images=IMAGES[:40])
        np.savez(tmp_path / folder / "b.npz", images=IMAGES[40:])
    before = run("old", (1.0, 2.0))
    assert refused(before, run("new", (1.0, 2.0))) is None
    for other in (run("new", (2.0, 1.0)), run("new", (1.0, 2.5)), run("new", (1.0, 2.0), -1)):
        assert "(data: " in refused(before, other)


def test_what_was_forced_may_be_forced_again():
    assert refused(OTHER, OTHER, force=["optim.b1"], before={"optim.b1"}) is None


def test_a_stretched_schedule_is_told_with_its_values():
    def schedules(steps: int) -> Schedules:
        return Schedules(steps, 0, (0.0, 1.0, 0.0), (0.0, 0.0), (0.5, 1.0))

    (line,) = schedule_change(schedules(10), schedules(20), 10)
    assert "20 steps instead of 10" in line
    assert "at step 11: learning rate 0 -> 0.422; weight decay 0 -> 0; momentum 1 -> 0.75" in line
    assert schedule_change(schedules(10), schedules(10), 10) == []


def recipe(images: pathlib.Path) -> ConfigDict:
    c = tiny()
    c.data.source, c.data.path, c.data.test_split = "npz", str(images), ""
    c.train.batch_size, c.train.epochs, c.train.warmup_epochs = 16, 1.0, 0.0
    c.train.log_every = 1
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    """A folder with images.npz and a finished run of them."""
    folder = tmp_path_factory.mktemp("finished")
    np.savez(folder / "images.npz", images=IMAGES)
    assert train(recipe(folder / "images.npz"), str(folder / "run")) == FINISHED
    return folder


def rows(workdir: pathlib.Path, file: str) -> list[dict]:
    return [json.loads(line) for line in (workdir / file).read_text().splitlines()]


def test_a_finished_run_goes_on_to_a_later_end_with_images_that_moved(finished, tmp_path, capsys):
    shutil.copytree(finished / "run", tmp_path / "run")
    np.savez(tmp_path / "moved.npz", images=IMAGES)
    config = recipe(tmp_path / "moved.npz")
    config.train.epochs = 1.5
    assert train(config, str(tmp_path / "run")) == FINISHED

    said = capsys.readouterr().out
    assert "changed: train.epochs: 1.0 -> 1.5" in said
    assert "the schedules are now those of 6 steps instead of 4" in said
    assert [row["step"] for row in rows(tmp_path / "run", "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 6
    changed = [row for row in rows(tmp_path / "run", "events.jsonl") if row["event"] == "change"]
    assert [(row["name"], row["forced"]) for row in changed] == [
        ("data.path", False),
        ("train.epochs", False),
    ]
    assert (changed[1]["old"], changed[1]["new"]) == (1.0, 1.5)


def test_an_earlier_end_than_was_reached_is_refused(finished):
    config = recipe(finished / "images.npz")
    config.train.epochs = 0.5
    with pytest.raises(UserError, match=r"4 steps are done, and train\.epochs=0\.5 makes 2"):
        train(config, str(finished / "run"))


def test_results_without_a_checkpoint_are_not_trained_over(finished, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    config = recipe(finished / "images.npz")
    config.train.epochs = 2.0
    with pytest.raises(UserError, match="holds results, but no checkpoint to go on from"):
        train(config, str(tmp_path / "run"))


def test_other_images_are_refused_unless_forced(finished, tmp_path, capsys):
    shutil.copytree(finished / "run", tmp_path / "run")
    np.savez(tmp_path / "other.npz", images=255 - IMAGES)
    config = recipe(tmp_path / "other.npz")
    config.train.epochs = 1.25
    with pytest.raises(UserError, match=r"data: 64 images \(.* --force=data$"):
        train(config, str(tmp_path / "run"))
    assert train(config, str(tmp_path / "run"), ["data"]) == FINISHED
    assert "forced: data: 64 images (" in capsys.readouterr().out
    assert train(config, str(tmp_path / "run"), ["data"]) == FINISHED  # the same command


def test_asking_for_a_finished_run_reads_no_image(finished, monkeypatch):
    monkeypatch.setattr("jepa_jax.training.run.data_identity", None)
    assert train(recipe(finished / "images.npz"), str(finished / "run")) == FINISHED


def test_a_finished_run_tells_what_its_results_are_not_of(finished, tmp_path, capsys):
    shutil.copytree(finished / "run", tmp_path / "run")
    np.savez(tmp_path / "moved.npz", images=IMAGES)

    def said() -> str:
        assert train(recipe(tmp_path / "moved.npz"), str(tmp_path / "run")) == FINISHED
        return capsys.readouterr().out

    for _ in range(2):
        assert "changed: data.path: " in (told := " ".join(said().split()))
        assert "of the former settings: delete results.json there to find them anew" in told
    (tmp_path / "run" / "results.json").unlink()
    assert "changed: data.path: " in said()
    assert (tmp_path / "run" / "results.json").exists()
    assert "changed:" not in said()


def test_what_the_state_cannot_be_is_not_forced(finished):
    config = recipe(finished / "images.npz")
    config.predictor.width, config.train.epochs = 16, 2.0
    with pytest.raises(UserError, match=r"does not fit \(.*float32\[8\] -> float32\[16\]"):
        train(config, str(finished / "run"), ["predictor.width"])
