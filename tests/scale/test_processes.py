"""Several processes behind `launch/train.py`: they end together, whatever one of them is told."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from jepa_jax.exits import FINISHED, HUNG, STOPPED

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 240  # seconds; processes that lost one of them wait for it
RECIPE = """
from tests.scale.run_steps import shared_recipe

def get_config():
    c = shared_recipe()
    c.data.test_split = "test"
    c.train.log_every = 5
    return c
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(RECIPE)
    return path


def start(recipe, workdir, *flags, processes=2, missing=()) -> list[subprocess.Popen]:
    """Four devices, shared among the processes; those that are missing are not started."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // processes}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, ROOT / "launch" / "train.py", f"--config={recipe}"]
    command += [f"--workdir={workdir}", f"--coordinator=localhost:{port}", "--heartbeat_seconds=10"]
    command += [f"--processes={processes}", *flags]
    return [
        subprocess.Popen(
            [*command, f"--process={process}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
        if process not in missing
    ]


def ended(started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    try:
        texts = [process.communicate(timeout=TIMEOUT) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]


def losses(workdir) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["loss"] for row in rows}


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory):
    """The folder of a run of one process, to its end."""
    workdir = tmp_path_factory.mktemp("straight")
    ((code, _, errors),) = ended(start(recipe, workdir, processes=1))
    assert code == FINISHED, errors
    return workdir


def test_two_processes_that_one_signal_stops_go_on_to_the_same_end(recipe, straight, tmp_path):
    started = start(recipe, tmp_path)
    deadline = time.monotonic() + TIMEOUT
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    for code, _, errors in ended(started):
        assert code == STOPPED, errors
    assert 0 < max(losses(tmp_path)) < max(losses(straight))

    first, second = ended(start(recipe, tmp_path))
    assert first[0] == second[0] == FINISHED, first[2] + second[2]
    assert "going on after step" in first[1]
    assert "step" not in second[1]  # one process speaks for both
    assert losses(tmp_path) == losses(straight)
    one, two = (json.loads((path / "results.json").read_text()) for path in (straight, tmp_path))
    for features, scores in one["accuracy"].items():
        assert two["accuracy"][features] == pytest.approx(scores, abs=0.02)


def test_a_process_that_does_not_come_up(recipe, tmp_path):
    ((code, _, errors),) = ended(start(recipe, tmp_path, "--start_seconds=3", missing={0}))
    assert code == HUNG
    assert errors.strip().splitlines()[-1].startswith("error: not all processes came up within 3")
