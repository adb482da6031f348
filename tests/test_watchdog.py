"""The watchdog, in processes of their own: what hangs is ended and shown, and nothing else is."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jepa_jax.exits import HUNG

ROOT = pathlib.Path(__file__).parents[1]
LIMIT = 1.0  # seconds
CODE = """
import pathlib, sys, threading, time
from jepa_jax.training import watchdog
from jepa_jax.training.ledger import Ledger
watchdog.PATIENCE = 0.5
print("here", flush=True)
say = lambda event, **fields: print(event, flush=True)
with Ledger(say) as ledger, watchdog.Watchdog(ledger, {limit} / 60, pathlib.Path({file!r})):
    ledger.enter("step")
{body}
"""


@pytest.fixture
def begin(tmp_path):
    """Starts a process that does what is said under a watchdog with a limit of LIMIT."""
    started = []

    def start(body: str, file: str = "stacks.txt") -> subprocess.Popen:
        code = CODE.format(
            limit=LIMIT,
            file=str(tmp_path / file),
            body=textwrap.indent(textwrap.dedent(body), "    "),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


HANG = """
def hang_here():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
"""


def test_a_hang_is_ended_and_shown(begin, tmp_path):
    process = begin(f"{HANG}\nhang_here()")
    output, errors = process.communicate(timeout=20)
    assert process.returncode == HUNG
    assert errors.startswith("error: no step ended for 0.0166667 minutes, in 'step'")
    for text in (errors, (tmp_path / "stacks.txt").read_text()):
        assert "in hang_here" in text
    assert output == "hung\n"


def test_what_holds_pythons_lock_is_ended_too(begin):
    process = begin("import re; re.match('(a+)+b', 40 * 'a')")
    begun = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert time.monotonic() - begun > 5 * LIMIT
    assert "Timeout" in errors
    assert "in match" in errors


def test_a_save_has_longer(begin):
    process = begin(f"{HANG}\nwith ledger('checkpoint'): hang_here()")
    begun = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == HUNG
    assert time.monotonic() - begun > 5 * LIMIT
    assert "for 0.1 minutes, in 'checkpoint'" in errors


def test_a_disk_that_hangs_keeps_nobody(begin, tmp_path):
    os.mkfifo(tmp_path / "fifo")  # to open it is to wait for a reader
    process = begin(f"{HANG}\nhang_here()", file="fifo")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == HUNG
    assert "in hang_here" in errors


def test_a_worker_that_was_stopped_ends_too(begin):
    body = """
    import multiprocessing, os, signal
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=[300])
    worker.start()
    os.kill(worker.pid, signal.SIGSTOP)
    """
    process = begin(f"{textwrap.dedent(body)}{HANG}hang_here()")
    process.communicate(timeout=60)  # to the end of all who hold its output
    assert process.returncode == HUNG


def test_a_run_that_gets_on_is_let_alone(begin):
    process = begin("for _ in range(30): time.sleep(0.1); ledger.enter('step')")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_events_show_that_it_gets_on(begin):
    """Such as those of a save that is tried again and again."""
    process = begin(
        "with ledger('checkpoint'):\n"
        "    for _ in range(15): time.sleep(0.5); ledger.record('failed')"
    )
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_a_process_that_was_suspended_has_not_hung(begin):
    process = begin("for _ in range(20): time.sleep(0.1); ledger.enter('step')")
    process.send_signal(signal.SIGSTOP)
    time.sleep(2 * LIMIT)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
