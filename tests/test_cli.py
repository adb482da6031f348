"""Wrong input on the command line: one line that says what to do, and exit code 2."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jepa_jax import cli
from tests.commands import ROOT, refused


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Sixteen images, one of which is none."""
    (tmp_path / "images").mkdir()
    for number in range(16):
        pixels = np.full((8, 8), 16 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "7.png").write_bytes(b"not an image")
    return tmp_path


DIGITS = "--config=configs/digits.py"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--config.train.epoch=3",
            "config has no key 'train.epoch'; the nearest is 'train.epochs'",
        ),
        ("--config.model.patch_size=7", "does not divide into patches"),
        ("--config.model.patch_size=48", "too small"),
        ("--config.train.epochs=many", "could not convert string to float"),
        ("--workdri=x", "workdri"),
    ],
)
def test_wrong_settings(tmp_path, override: str, message: str):
    assert message in refused("train", DIGITS, f"--workdir={tmp_path}/run", override)
    assert not (tmp_path / "run").exists()


def test_no_such_recipe(tmp_path):
    message = refused("train", "--config=configs/digit.py", f"--workdir={tmp_path}")
    assert "configs/digit.py" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "invalid syntax"),
        ("import no_such_package\n", "no_such_package"),
        (
            "from jepa_jax.config import defaults\n"
            "def get_config():\n    c = defaults()\n    c.model.widht = 3\n    return c\n",
            'Did you mean "width"',
        ),
    ],
)
def test_broken_recipes(tmp_path, text: str, message: str):
    (tmp_path / "recipe.py").write_text(text)
    recipe, workdir = f"--config={tmp_path}/recipe.py", f"--workdir={tmp_path}/run"
    assert message in refused("train", recipe, workdir)


def test_overrides_without_a_recipe():
    assert "--config=" in refused("train", "--config.train.epochs=3")


def test_a_value_may_follow_its_flag_after_a_space():
    words = ["run", "--checkpoint", "runs/a", "-config=b.py", "--force", "--set=x.y=1", "--last"]
    assert list(cli._flags(words)) == [
        ("checkpoint", "runs/a"),
        ("config", "b.py"),
        ("force", "--set=x.y=1"),  # whatever it is: nobody asks
        ("set", "x.y=1"),
        ("last", ""),
    ]
    message = refused("train", "--config", "configs/digit.py", "--workdir=x")
    assert "--config=configs/digit.py is no file" in message


def test_no_workdir():
    assert "--workdir" in refused("train", DIGITS)


def test_no_such_data(tmp_path):
    message = refused(
        "train",
        "--config=configs/vitb16.py",
        f"--workdir={tmp_path}/run",
        "--config.train.batch_size=8",
    )
    assert "data/imagenet" in message


def test_empty_folder(tmp_path):
    (tmp_path / "nothing").mkdir()
    message = refused(
        "train",
        DIGITS,
        f"--workdir={tmp_path}/run",
        "--config.data.source=folder",
        f"--config.data.path={tmp_path}/nothing",
        "--config.data.test_split=",
    )
    assert "holds no images" in message


def test_corrupt_image(folder):
    message = refused(
        "train",
        DIGITS,
        f"--workdir={folder}/run",
        "--config.data.source=folder",
        f"--config.data.path={folder}/images",
        "--config.data.test_split=",
        "--config.train.batch_size=8",
        "--config.train.epochs=2",
        "--config.train.warmup_epochs=0",
    )
    assert "7.png can't be read as an image: remove or replace it" in message


def test_workdir_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("train", DIGITS, f"--workdir={tmp_path}/file")


def test_commands_start_through_a_link(tmp_path):
    """As where a home directory is one: `inspect.py` does not hide Python's own module."""
    (tmp_path / "link").symlink_to(ROOT)
    command = [sys.executable, str(tmp_path / "link" / "launch" / "inspect.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "what became of a run" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("prepare", "--from=photos", "--to=gs://bucket/photos"),
        ("benchmark", "masks", DIGITS, "--out=gs://bucket/masks.jsonl"),
        ("submit", "slurm", DIGITS, "--workdir=run", "--name=run", "--folder=gs://bucket/run"),
    ],
)
def test_what_is_written_locally_is_not_meant_for_a_bucket(words: tuple[str, ...]):
    flag, place = words[-1].split("=")
    wanted = f"error: {place} is in a bucket: name a local or shared place in {flag}"
    assert refused(*words) == wanted


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is there")
def test_a_bucket_without_its_package_is_one_line():
    told = refused("inspect", "run", "gs://bucket/run")
    assert told == "error: gs://… needs another package: pip install -e '.[gcs]'"


def test_a_program_that_is_no_file_keeps_its_folder_on_the_path():
    code = "import os, sys, jepa_jax.cli; sys.exit(os.getcwd() not in sys.path)"
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=path).returncode == 0
