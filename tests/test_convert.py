"""The command that takes encoders to other implementations."""

import subprocess

import numpy as np
import pytest

import jepa_jax
from jepa_jax.errors import UserError
from jepa_jax.interop.convert import to_huggingface, to_reference
from jepa_jax.interop.runs import find_checkpoint
from tests.commands import launch
from tests.saving import save_run
from tests.tiny import tiny

pytest.importorskip("safetensors", reason="needs jepa_jax[interop]")


def convert(*arguments: str) -> subprocess.CompletedProcess:
    return launch("convert", *arguments)


def test_a_run_becomes_a_folder(tmp_path):
    save_run(tmp_path / "run", tiny())
    done = convert(
        "hf", f"--checkpoint={tmp_path}/run", f"--out={tmp_path}/out", "--encoder=context",
        "--mean=0.25", "--std=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    back = jepa_jax.load(tmp_path / "out", "context")
    np.testing.assert_equal(back.params, jepa_jax.load(tmp_path / "run", "context").params)
    assert (back.backbone.mean, back.backbone.std) == ((0.25,), (1.0,))


def test_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "run", tiny())
    assert find_checkpoint("~/run").folder == tmp_path / "run" / "checkpoints" / "30"
    to_huggingface("~/run", "~/out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "run"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is there already"):
        to_reference("~/run", "~/file")


@pytest.mark.parametrize("to", [to_huggingface, to_reference])
def test_a_bucket_is_refused(to):
    with pytest.raises(UserError, match="is in a bucket: name a local or shared place"):
        to("runs/digits", "gs://bucket/out")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["hf", "--checkpoint=nothing", "--out=out"], "nothing is not there"),
        (["reference", "--out=out"], "say what to read and to write"),
        (["hf", "--checkpoint=configs", "--out=docs"], "docs is not empty"),
    ],
)
def test_wrong_input_is_answered_in_a_line(arguments, complaint):
    done = convert(*arguments)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert complaint in line
