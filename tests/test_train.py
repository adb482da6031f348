"""Whole runs of a tiny recipe: what they leave, that they repeat, and that they go on."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
import weakref
from unittest import mock

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.errors import UserError
from jepa_jax.evaluation.probe import Probe
from jepa_jax.training import loop
from jepa_jax.training.goodput import goodput
from jepa_jax.training.guard import Diverged
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.loop import FINISHED, STOPPED, train
from jepa_jax.training.workdir import Workdir
from tests.tiny import tiny as recipe

STEPS = 12


def tiny() -> ConfigDict:
    c = recipe()
    c.train.epochs = STEPS / 22  # 1,437 images are 22 batches
    c.train.log_every = 1
    c.train.checkpoint_every = 5
    c.probe.every_epochs = 5 / 22
    c.probe.train_images = c.probe.test_images = 200
    return c


def rows(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny(), str(workdir)) == FINISHED
    return workdir


def test_every_step_is_in_the_metrics_once(finished):
    assert [row["step"] for row in rows(finished)] == list(range(1, STEPS + 1))
    assert all(np.isfinite(row["loss"]) for row in rows(finished))
    # Compilation is not counted, so there is no rate before the second step.
    assert [row["images_per_second"] is None for row in rows(finished)] == [True] + 11 * [False]


def test_the_end_compares_three_kinds_of_features(finished):
    accuracy = json.loads((finished / "results.json").read_text())["accuracy"]
    assert list(accuracy) == ["raw pixels", "untrained encoder", "trained target encoder"]
    for scores in accuracy.values():
        assert 0.1 < scores["knn"] <= 1
        assert 0.1 < scores["linear"] <= 1
    assert [row["step"] for row in rows(finished) if "knn" in row] == [5, 10, 12]
    last = rows(finished)[-1]
    assert {key: last[key] for key in ("knn", "linear")} == accuracy["trained target encoder"]


def test_events_tell_where_the_time_went(finished):
    names = [row["event"] for row in events(finished)]
    assert names[:4] == ["start", "restore", "compile", "step"]
    assert names[-1] == "end"
    assert names.count("step") == STEPS
    account = goodput(events(finished))
    assert (account.step, account.starts, account.repeated) == (STEPS, 1, 0)
    spent = {name for name, seconds in account.seconds.items() if seconds > 0}
    assert {"start", "compile", "step", "checkpoint", "evaluation"} <= spent


@pytest.mark.parametrize("picture", ["loss.png", "masks.png", "features.png"])
def test_pictures_show_something(finished, picture: str):
    with Image.open(finished / picture) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_a_finished_run_says_so_and_changes_nothing(finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(tiny(), str(finished)) == FINISHED
    assert f"is finished: all {STEPS} steps are done" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


def stop_after(step: int, monkeypatch) -> None:
    """Sends the signal that schedulers send, when this step has been shown."""
    original = loop.Display.update

    def update(self, row):
        original(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Display, "update", update)


def test_stopped_and_started_again_equals_straight_through(finished, tmp_path, monkeypatch):
    for step in (3, 7):
        stop_after(step, monkeypatch)
        assert train(tiny(), str(tmp_path)) == STOPPED
        monkeypatch.undo()
        assert rows(tmp_path)[-1]["step"] == step
    monkeypatch.setattr(Probe, "pixel_scores", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert train(tiny(), str(tmp_path)) == STOPPED  # between two looks at the end
    monkeypatch.undo()
    assert not (tmp_path / "results.json").exists()
    assert train(tiny(), str(tmp_path)) == FINISHED
    assert [row["loss"] for row in rows(tmp_path)] == [row["loss"] for row in rows(finished)]
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, STEPS + 1))
    assert goodput(events(tmp_path)).starts == 4


def saved(folder: pathlib.Path, step: int) -> None:
    """Waits for a save that goes on behind a run, which here survives the crash of the run."""
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / str(step)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_steps_after_the_last_checkpoint_are_done_again(finished, tmp_path, monkeypatch):
    """As after a crash: metrics are ahead of the checkpoint, and the last line is cut short."""

    def crash(self, row):
        if row["step"] == 8:
            raise RuntimeError("power cut")

    monkeypatch.setattr(loop.Display, "update", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny(), str(tmp_path))
    monkeypatch.undo()
    saved(tmp_path, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    assert train(tiny(), str(tmp_path)) == FINISHED
    account = goodput(events(tmp_path))
    assert (account.step, account.repeated) == (STEPS, 3)  # of which 5 was saved
    assert [row["loss"] for row in rows(tmp_path)] == [row["loss"] for row in rows(finished)]


def test_a_probe_that_a_crash_cut_short_is_done_again(finished, tmp_path, monkeypatch):
    def crash(self, step, scores):
        raise RuntimeError("power cut")

    monkeypatch.setattr(Workdir, "amend", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny(), str(tmp_path))
    monkeypatch.undo()
    assert rows(tmp_path)[-1]["step"] == 5
    saved(tmp_path, 5)
    assert train(tiny(), str(tmp_path)) == FINISHED
    scores = [[row.get("knn") for row in rows(path)] for path in (finished, tmp_path)]
    assert scores[0] == scores[1]
    assert goodput(events(tmp_path)).repeated == 0


def test_a_last_evaluation_that_a_kill_cut_short_is_all_that_is_done(
    finished, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    Workdir(folder).forget_after(STEPS - 1, STEPS)
    Workdir(folder).append({"step": STEPS, "loss": 1.0})  # without scores
    config = tiny()
    config.probe.every_epochs = STEPS / 22
    monkeypatch.setattr(loop, "probe", None)  # the look on the way
    monkeypatch.setattr(loop, "finish", lambda *_: {"accuracy": {}})
    assert train(config, str(folder)) == FINISHED


def test_two_at_once_are_refused(finished, monkeypatch):
    monkeypatch.setattr("jepa_jax.training.workdir.PATIENCE", 0.1)
    with (
        Workdir(finished).lock(),
        pytest.raises(UserError, match=f"another process is training in {finished}: let it"),
    ):
        train(tiny(), str(finished))
    assert train(tiny(), str(finished)) == FINISHED


def test_another_config_is_refused_with_the_difference(finished):
    config = tiny()
    config.optim.learning_rate = 0.5
    with pytest.raises(UserError, match=r"optim.learning_rate: 0.001 -> 0.5"):
        train(config, str(finished))


def test_a_diverged_run_stops_with_a_report(tmp_path):
    config = tiny()
    config.optim.learning_rate = config.optim.start_learning_rate = 1e30
    config.train.log_every = 100
    config.guard.in_a_row, config.guard.roll_backs = 2, 1
    with pytest.raises(UserError, match=r"were left out: loss .*, after 1 roll-backs: start again"):
        train(config, str(tmp_path))
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
    skipped = [row for row in events(tmp_path) if row["event"] == "skipped"]
    assert len(skipped) == 4
    assert all(len(row["images"]) == config.train.batch_size for row in skipped)


def test_what_is_saved_has_a_row_with_its_loss(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    for step in (10, STEPS):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    config = tiny()
    config.train.log_every, config.train.checkpoint_every, config.data.test_split = 100, 4, ""
    assert train(config, str(tmp_path)) == FINISHED
    assert [row["step"] for row in rows(tmp_path) if row["loss"]] == [1, 2, 3, 4, 5, 8, 12]


class Poison:
    """Makes the images of some batches not finite, by the number of the batch."""

    def __init__(self, monkeypatch, numbers: set[int]):
        original = loop.train_batches

        def poisoned(*args, start, **kwargs):
            for number, batch in enumerate(original(*args, start=start, **kwargs), start):
                images = batch.images.astype(np.float32) / 255
                yield batch._replace(images=images * np.nan if number in numbers else images)

        monkeypatch.setattr(loop, "train_batches", poisoned)


def test_a_batch_that_is_not_finite_changes_nothing(tmp_path, monkeypatch):
    Poison(monkeypatch, {4})
    config = tiny()
    config.probe.every_epochs = 0.0
    assert train(config, str(tmp_path)) == FINISHED
    assert [row["skipped"] for row in rows(tmp_path)] == 4 * [0] + 8 * [1]
    assert [row["step"] for row in rows(tmp_path) if row["loss"] is None] == [5]
    (skipped,) = [row for row in events(tmp_path) if row["event"] == "skipped"]
    source_indices = loop.prepare(config, str(tmp_path)).loader[4]["index"]
    assert skipped["images"] == source_indices.tolist()


def test_a_streak_rolls_back_and_goes_on_behind_it(tmp_path, monkeypatch):
    Poison(monkeypatch, {6, 7})
    config = tiny()
    config.probe.every_epochs = 0.0
    config.guard.in_a_row = 2
    assert train(config, str(tmp_path)) == FINISHED
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, STEPS + 1))
    assert all(row["skipped"] == 0 for row in rows(tmp_path))
    (event,) = [row for row in events(tmp_path) if row["event"] == "roll_back"]
    assert (event["at"], event["step"], event["skipped_batches"]) == (8, 5, 3)
    assert goodput(events(tmp_path)).seconds["roll_back"] > 0


def test_a_roll_back_holds_no_state_beside_the_one_that_it_reads(tmp_path, monkeypatch):
    held = []

    def steps(run, state, start, *_):
        if start.roll_backs:
            return state, 1
        state = set()  # stands for one
        held.append(weakref.ref(state))
        raise Diverged(step=2, before=0, batch=1, reason="ill")

    def roll_back(run, start, *_):
        held.append(held[0]())
        return None, start._replace(roll_backs=1)

    monkeypatch.setattr(loop, "restore", lambda run: (None, loop.Start()))
    monkeypatch.setattr(loop, "steps", steps)
    monkeypatch.setattr(loop, "roll_back", roll_back)
    assert loop.go_on(loop.prepare(tiny(), str(tmp_path)), ()) == STOPPED
    assert held[1] is None


def looks_of_the_end(monkeypatch) -> list[tuple[int, tuple]]:
    """The ledger's moves before each look of the last evaluation, and what is looked at."""
    looks = []

    def look(*given, **_):
        looks.append((run.ledger.moves, given))
        return {"knn": 0.5}

    run = mock.MagicMock(
        ledger=Ledger(lambda *_, **__: None),
        fresh=lambda: types.SimpleNamespace(target=jax.numpy.ones(2)),  # whole, jit can't give it
        sharding=types.SimpleNamespace(target=None),
    )
    run.probe.scores = run.probe.pixel_scores = look
    monkeypatch.setattr("jepa_jax.visualize.run.draw_run", look)
    loop.finish(run, mock.MagicMock(), mock.MagicMock(), stop=False)
    return looks


def test_each_look_of_the_last_evaluation_has_the_watchdogs_time_to_itself(monkeypatch):
    moves = [moves for moves, _ in looks_of_the_end(monkeypatch)]
    assert len(set(moves)) == 4  # pixels, untrained, trained, pictures


def test_of_the_untrained_state_only_the_target_encoder_is_made(monkeypatch):
    _, (_, target) = looks_of_the_end(monkeypatch)[1]
    assert target.tolist() == [1, 1]


def test_images_without_labels_train_without_probes(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "photos.npz", images=rng.integers(0, 255, (64, 8, 8), dtype=np.uint8))
    config = tiny()
    config.data.source, config.data.path = "npz", str(tmp_path / "photos.npz")
    config.data.test_split = ""
    config.train.epochs, config.train.warmup_epochs = 2.0, 0.0
    assert train(config, str(tmp_path / "run")) == FINISHED
    assert json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"] == {}


def test_broken_images_are_counted_and_named_once_over_all_starts(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(64):
        pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    for number in (5, 40):
        (folder / f"{number:02}.png").write_bytes(b"nonsense")
    config = tiny()
    config.data.source, config.data.path, config.data.test_split = "folder", str(folder), ""
    config.data.broken_share = 0.05
    config.train.batch_size, config.train.log_every = 16, 1
    config.train.epochs, config.train.warmup_epochs = 2.0, 0.0

    stop_after(4, monkeypatch)
    assert train(config, str(tmp_path / "run")) == STOPPED
    monkeypatch.undo()
    assert train(config, str(tmp_path / "run")) == FINISHED
    counts = [row["broken_images"] for row in rows(tmp_path / "run")]
    assert counts == sorted(counts)
    assert counts[3:] == 5 * [2]  # an epoch has four steps
    said = capsys.readouterr().out
    assert [said.count(f"{number:02}.png can't be read") for number in (5, 40)] == [1, 1]


def test_a_damaged_checkpoint_costs_only_its_own_steps(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "results.json").unlink()
    (tmp_path / "checkpoints" / str(STEPS) / "about" / "metadata").unlink()
    assert train(tiny(), str(tmp_path)) == FINISHED
    assert f"checkpoints/{STEPS} is damaged: " in capsys.readouterr().out
    assert [row["loss"] for row in rows(tmp_path)] == [row["loss"] for row in rows(finished)]


def test_state_is_placed_by_its_sharding(finished):
    run = loop.prepare(tiny(), str(finished))
    state, start = loop.restore(run)
    assert start.step == STEPS
    placed = jax.tree.map(lambda leaf, place: leaf.sharding == place, state, run.sharding)
    assert all(jax.tree.leaves(placed))


def test_the_doctor_looks_and_stops_a_run_whose_target_follows_at_once(tmp_path):
    c = tiny()
    c.doctor.every, c.doctor.action = 3, "stop"
    c.optim.ema = (0.0, 0.0)
    with pytest.raises(UserError, match="stopped at step 3, as the doctor was told"):
        train(c, str(tmp_path))
    (row,) = (row for row in rows(tmp_path) if "rank" in row)
    assert (row["step"], row["target_gap"]) == (3, 0)
    (event,) = (row for row in events(tmp_path) if row["event"] == "verdict")
    assert (event["step"], event["name"], event["severity"]) == (3, "same_encoder", "ill")


def test_what_is_for_the_end_of_a_run_is_not_imported_at_its_start():
    script = "import sys, jepa_jax.training.loop; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    modules = found.stdout.split()
    assert "orbax.checkpoint" in modules
    assert not {"matplotlib", "sklearn", "scipy.optimize", "scipy.stats"} & set(modules)
