"""Several processes behind `launch/train.py`: they end together, whatever one of them is told."""

import json
import signal
import subprocess
import sys

import pytest

from jepa_jax.exits import FINISHED, HUNG, STOPPED
from tests.scale.endings import metrics
from tests.scale.jobs import ROOT, Job, free_port


def losses(workdir) -> dict[int, float]:
    rows = metrics(workdir)
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["loss"] for row in rows}


def test_two_processes_that_one_signal_stops_go_on_to_the_same_end(undisturbed, tmp_path):
    straight = losses(undisturbed.workdir)
    with Job(undisturbed.file, tmp_path, 2, cache=undisturbed.cache) as job:
        job.until(lambda: job.told("step"))
        job.send(signal.SIGTERM, 1)
        assert job.codes() == (STOPPED, STOPPED), job.output()
    assert 0 < max(losses(tmp_path)) < max(straight)

    with Job(undisturbed.file, tmp_path, 2, cache=undisturbed.cache) as job:
        assert job.codes() == (FINISHED, FINISHED), job.output()
        assert "going on after step" in job.output(0)
        assert "step" not in job.output(1)  # one process speaks for both
    assert losses(tmp_path) == straight
    one, two = (
        json.loads((path / "results.json").read_text()) for path in (undisturbed.workdir, tmp_path)
    )
    for features, scores in one["accuracy"].items():
        assert two["accuracy"][features] == pytest.approx(scores, abs=0.02)


def test_a_process_that_does_not_come_up(undisturbed, tmp_path):
    with Job(undisturbed.file, tmp_path, 2, ["--start_seconds=3"], missing={0}) as job:
        assert job.codes() == (HUNG,), job.output()
    line = job.output().strip().splitlines()[-1]
    assert line.startswith("error: not all processes came up within 3")


def test_a_signal_before_the_run_listens_ends_it():
    """JAX would catch it, to tell those who ask it, and the run would never stop."""
    program = (
        "import os, signal, time\n"
        "from jepa_jax.parallel import processes\n"
        f"where = 'localhost:{free_port()}', 1, 0\n"
        "processes.start(*where, start_seconds=60, heartbeat_seconds=10)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(20)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -signal.SIGTERM
