"""launch/submit.py slurm, on a real SLURM: two tasks, stopped, queued again, finished."""

import json
import pathlib
import re
import subprocess
import sys
import time

import pytest

from tests.scale import slurm

ROOT = pathlib.Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    slurm.missing() is not None or not (ROOT / ".git").exists(),
    reason=f"on one machine, {slurm.missing() or 'needs the git checkout'}",
)
STEPS = 220  # ten epochs
SMALL = (
    "--config.model.width=32",
    "--config.model.heads=2",
    "--config.model.depth=1",
    "--config.predictor.width=16",
    "--config.predictor.heads=2",
    "--config.predictor.depth=1",
    "--config.train.batch_size=64",
    "--config.train.epochs=10",
    "--config.train.log_every=1",
    "--config.data.test_split=",
)


@pytest.fixture(scope="module")
def here():
    with slurm.cluster() as environment:
        yield environment | {"JAX_PLATFORMS": "cpu", "SOME_TOKEN": "sesame"}


class Job:
    """A submitted run."""

    def __init__(self, folder: pathlib.Path, here: dict[str, str], name: str):
        self.folder, self.here, self.name = folder, here, name

    def submit(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "launch" / "submit.py", "slurm", f"--name={self.name}"]
        paths = (f"--folder={self.folder}/code", f"--workdir={self.folder}/run")
        recipe = (f"--config={ROOT}/configs/digits.py", *SMALL, "--commit=HEAD")
        passing = ("--tasks_per_node=2", "--env=JAX_PLATFORMS,SOME_TOKEN,XLA_FLAGS", "--yes")
        result = subprocess.run(
            [*command, *paths, *recipe, *passing, *words],
            env=self.here,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.here, capture_output=True, text=True).stdout

    def wait_for(self, what, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.log + self.ask("scontrol", "show", "job")
            time.sleep(0.1)

    @property
    def steps(self) -> list[int]:
        file = self.folder / "run" / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["step"] for line in lines]

    @property
    def log(self) -> str:
        file = self.folder / "code" / f"{self.name}.log"
        return file.read_text() if file.exists() else ""

    def shown(self, field: str) -> str:
        shown = self.ask("scontrol", "show", "job", "--oneliner").splitlines()
        line = next(line for line in shown if f"JobName={self.name} " in line)
        return re.search(rf"\b{field}=(\S+)", line)[1]


def test_a_run_that_was_stopped_is_queued_again_and_goes_on(here, tmp_path):
    job = Job(tmp_path, here, "first")
    said = job.submit("--setup=echo a token of ${#SOME_TOKEN} letters").stdout
    assert "is in the queue already: job" in job.submit().stdout
    assert "sesame" not in said + (tmp_path / "code" / "first.sbatch").read_text()
    job.wait_for(lambda: len(job.steps) > 2)
    number = job.shown("JobId")
    job.ask("scancel", "--signal=TERM", number)
    job.wait_for(lambda: job.shown("JobState") != "RUNNING")
    stopped = job.steps[-1]
    assert 2 < stopped < STEPS
    job.wait_for(lambda: job.shown("JobState") in ("COMPLETED", "FAILED"))
    assert job.shown("JobState") == "COMPLETED", job.log
    assert job.shown("Restarts") == "1"
    assert job.shown("JobId") == number
    assert job.steps == list(range(1, STEPS + 1))
    assert f"stopped and saved after step {stopped}" in job.log
    assert f"going on after step {stopped}" in job.log
    assert job.log.count("a token of 6 letters") == 2  # of each start
    # It is the archive that ran, whatever is installed.
    assert list(tmp_path.glob("code/jepa_jax-*/jepa_jax/training/__pycache__"))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == STEPS


def test_a_run_that_is_cancelled_stays_so(here, tmp_path):
    job = Job(tmp_path, here, "second")
    job.submit()
    job.wait_for(lambda: len(job.steps) > 2)
    job.ask("scancel", job.shown("JobId"))
    job.wait_for(lambda: job.ask("squeue", "--noheader") == "")
    assert job.shown("JobState") == "CANCELLED"
    assert job.shown("Restarts") == "0"
