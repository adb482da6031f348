"""What is learned does not depend on how devices and processes share the work."""

import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.scale.ten_steps import HALF, LAST, MESHES, OTHERWISE, SAME

SCRIPT = pathlib.Path(__file__).with_name("ten_steps.py")
ROOT = SCRIPT.parents[2]
TIMEOUT = 500  # seconds


def start(devices: int, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(process: subprocess.Popen) -> dict[str, list[float]]:
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, list[float]]:
    return losses(start(8, tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def expected(alone) -> list[float]:
    steps = alone["one device"]
    assert len(set(steps)) == LAST
    return steps


@pytest.mark.parametrize("name", [name for name in SAME if name != "one device"])
def test_ten_steps_are_the_same_however_they_are_computed(alone, expected, name: str):
    np.testing.assert_allclose(alone[name], expected, rtol=1e-5)


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_is_computed_otherwise_is_the_same_on_a_mesh(alone, expected, what: str):
    """Variance, covariance and the scales of float8 are those over all devices."""
    found, otherwise = (alone[f"{mesh}, {what}"] for mesh in ("mixed", "one device"))
    np.testing.assert_allclose(found, otherwise, rtol=1e-5)
    assert otherwise != expected


@pytest.mark.parametrize(("saved", "to"), list(itertools.permutations(MESHES, 2)))
def test_what_is_saved_on_one_mesh_goes_on_on_another(alone, expected, saved: str, to: str):
    found = alone[f"from {saved} to {to}"]
    np.testing.assert_allclose(found, expected[HALF : HALF + 2], rtol=1e-5)


def test_ten_steps_of_two_processes_are_the_same(expected, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(4, tmp_path, process, 2, port) for process in range(2)]
    for found in [losses(process) for process in started]:
        np.testing.assert_allclose(found["mixed"], expected, rtol=1e-5)
