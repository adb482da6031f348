"""Asked again, a process ends at once, whatever it does; in processes of their own."""

import os
import pathlib
import pty
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jepa_jax.training.signals import TOGETHER

ROOT = pathlib.Path(__file__).parents[1]
# None of them comes back to Python, where signal handlers run, within the test.
WORK = {
    "computing in C": "tell(); import hashlib; hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)",
    "compiling": """
import jax
def deep(x):
    for _ in range(20_000):
        x = jax.numpy.sin(x) @ x
    return x
lowered = jax.jit(deep).lower(jax.ShapeDtypeStruct((8, 8), "float32"))
tell()
lowered.compile()
""",
}


@pytest.fixture
def begin():
    """Starts a process that prints when it is at its work, with StopWish around it."""
    started = []

    def start(work: str, stdout=subprocess.PIPE) -> subprocess.Popen:
        body = textwrap.indent(WORK[work], "    ")
        code = (
            "from jepa_jax.training.signals import StopWish\n"
            "def tell(): print('at work', flush=True)\n"
            f"with StopWish('again to stop at once'):\n{body}\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_it(begin, work: str, number: signal.Signals):
    process = begin(work)
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    assert process.stderr.readline() == "again to stop at once\n"
    assert process.poll() is None
    time.sleep(TOGETHER + 0.1)
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number


def test_timeout_signals_twice_and_asks_once(begin):
    """It signals its command, and then the group of both."""
    process = begin("computing in C")
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "again to stop at once\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(TOGETHER + 0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM


def test_the_terminal_gets_its_cursor_back(begin):
    ours, terminal = pty.openpty()
    process = begin("computing in C", stdout=terminal)
    os.close(terminal)
    told = b""
    while not told.endswith(b"\n"):  # text and end of line may come one after the other
        told += os.read(ours, 100)
    assert told == b"at work\r\n"
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    time.sleep(TOGETHER + 0.1)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=10)
    assert os.read(ours, 100) == b"\x1b[?25h"
    os.close(ours)
