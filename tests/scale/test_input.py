"""The same global batches and losses on one process and on several, also after a change of both."""

import functools
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

SCRIPT = pathlib.Path(__file__).with_name("run_steps.py")
ROOT = SCRIPT.parents[2]
DEVICES = 4
TIMEOUT = 240  # seconds; processes that lost one of them wait for it


Train = Callable[[pathlib.Path, int, int], list[str]]


def steps_of(programs: pathlib.Path, workdir: pathlib.Path, processes: int, last: int) -> list[str]:
    """Steps up to `last` on four devices, shared among the processes; what each step saw."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES // processes),
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, workdir, *map(str, (process, processes, port, last))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=TIMEOUT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    for process, output in zip(started, outputs, strict=True):
        assert process.returncode == 0, output
    steps = [[line for line in text.splitlines() if line.startswith("STEP")] for text in outputs]
    assert all(lines == steps[0] for lines in steps)
    return steps[0]


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> Train:
    return functools.partial(steps_of, tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def straight(train, tmp_path_factory) -> list[str]:
    return train(tmp_path_factory.mktemp("straight"), 1, 6)


def test_two_processes_equal_one(train, straight, tmp_path):
    assert len(straight) == 6
    assert train(tmp_path, 2, 6) == straight


def test_going_on_with_other_process_counts_equals_straight_through(train, straight, tmp_path):
    steps = []
    for processes, last in ((2, 3), (1, 5), (4, 6)):
        steps += train(tmp_path, processes, last)
    assert steps == straight
