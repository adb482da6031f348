"""Stops, kills and changed requests do no harm to a data set that is prepared."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from jepa_jax.data.prepare import run
from jepa_jax.data.prepare.folder import Folder
from jepa_jax.data.prepare.plan import make_plan
from jepa_jax.data.prepare.run import FINISHED, STOPPED, prepare
from jepa_jax.errors import UserError
from tests.preparing import NOISE, files, means, request, source

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> ConfigDict:
    """Images of so many bytes that a megabyte holds a few."""
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(path, images=NOISE)
    return source(path, "npz")


@pytest.fixture(scope="module")
def whole(noise, tmp_path_factory) -> pathlib.Path:
    """The data set of it, made without a stop."""
    path = tmp_path_factory.mktemp("whole") / "noise"
    assert prepare(request(noise, path), means()) == FINISHED
    return path


def test_shards_are_about_as_large_as_is_asked(whole):
    sizes = [file.stat().st_size for file in (whole / "1.0.0").glob("*.array_record*")]
    assert 0.7e6 < min(sizes) <= max(sizes) < 1.2e6


def command(noise: ConfigDict, to: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "launch/prepare.py", f"--from={noise.path}"),
            *(f"--to={to}", "--shard_mb=1", "--workers=2"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def begun(path: pathlib.Path) -> list[pathlib.Path]:
    """The finished shards of an unfinished data set."""
    about = path.glob("unfinished/*-of-*.json")
    return [path / "unfinished" / "1.0.0" / file.stem for file in about]


def test_a_killed_command_goes_on(noise, whole, tmp_path):
    path = tmp_path / "noise"
    with command(noise, path) as process:
        while not begun(path):
            time.sleep(0.005)
            assert process.poll() is None
        process.kill()
    assert not (path / "1.0.0").exists()
    with command(noise, path) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == FINISHED, output
    assert "of which are missing" in output
    assert files(path) == files(whole)


class OneShard:
    """Asks to stop when a shard is finished."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __bool__(self):
        return bool(begun(self.path))


def test_a_stopped_one_goes_on_and_mends_what_is_not_whole(noise, whole, tmp_path, capsys):
    path = tmp_path / "noise"
    assert prepare(request(noise, path), means(OneShard(path))) == STOPPED
    assert "the same command goes on" in capsys.readouterr().out
    os.truncate(begun(path)[0], 100)  # as after a power cut
    assert prepare(request(noise, path), means()) == FINISHED
    assert files(path) == files(whole)


def test_two_at_once_are_refused(noise, tmp_path):
    path = tmp_path / "noise"
    with Folder(path).lock(), pytest.raises(UserError, match=r"another process is preparing .*noi"):
        prepare(request(noise, path), means())
    assert prepare(request(noise, path), means(stop=True)) == STOPPED


def test_one_that_another_finished_in_the_meantime_is_let_alone(noise, tmp_path, monkeypatch):
    wanted = request(noise, tmp_path / "noise")
    before = {}

    def plan_slowly(*_):
        monkeypatch.undo()
        assert prepare(wanted, means()) == FINISHED
        before.update(files(wanted.to))
        return make_plan(wanted)

    monkeypatch.setattr(run, "make_plan", plan_slowly)
    assert prepare(wanted, means()) == FINISHED
    assert files(wanted.to) == before
    assert [each.name for each in wanted.to.iterdir()] == ["1.0.0"]


def test_what_is_begun_goes_on_with_the_same_options_only(noise, tmp_path):
    path = tmp_path / "noise"
    assert prepare(request(noise, path), means(stop=True)) == STOPPED
    with pytest.raises(UserError, match=r"another data set \(short_side: 0 -> 64\)"):
        prepare(request(noise, path, short_side=64), means())


def test_what_is_begun_goes_on_with_the_same_source_only(tmp_path):
    np.savez(tmp_path / "a.npz", images=NOISE)
    wanted = request(source(tmp_path / "a.npz", "npz"), tmp_path / "set")
    assert prepare(wanted, means(stop=True)) == STOPPED
    np.savez(tmp_path / "a.npz", images=255 - NOISE[1:])
    with pytest.raises(UserError, match=r"train images: 600 -> 599; train content: "):
        prepare(wanted, means())


def test_a_finished_data_set_says_so(noise, whole, capsys):
    before = files(whole)
    assert prepare(request(noise, whole), means()) == FINISHED
    output = capsys.readouterr().out
    assert "is finished" in output
    assert "c.data.source" in output
    assert files(whole) == before
    with pytest.raises(UserError, match=r"another data set \(format: None -> webp\)"):
        prepare(request(noise, whole, format="webp"), means())


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_key", "left"), ("mixture", ({"source": "digits"},)), ("a_key_to_come", 3)],
)
def test_no_key_of_a_source_is_forgotten(noise, tmp_path, key, value):
    changed = noise.copy_and_resolve_references().unlock()
    changed[key] = value
    changed.image_size = (32, 32)  # which is training's
    first, second = (request(data, tmp_path / "set").asked() for data in (noise, changed))
    assert {name for name in second if second[name] != first.get(name)} == {key}
    assert json.loads(json.dumps(second)) == second


def test_a_finished_data_set_whose_source_has_changed_says_so(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=NOISE[:4])
    wanted = request(source(path, "npz"), tmp_path / "set")
    assert prepare(wanted, means()) == FINISHED
    np.savez(path, images=NOISE[:5])
    with pytest.raises(UserError, match=r"another data set \(train images: 4 -> 5; "):
        prepare(wanted, means())
    path.unlink()
    assert prepare(wanted, means()) == FINISHED


def test_a_data_set_of_another_program_is_let_alone(noise, tmp_path):
    (tmp_path / "noise" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="made by another program: choose another --to"):
        prepare(request(noise, tmp_path / "noise"), means())
