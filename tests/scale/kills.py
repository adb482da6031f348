"""Kills a run again and again, and compares what comes out with a run that nobody disturbed.

    python -m tests.scale.kills [--kills=20] [--terms=10] [--processes=1] [--seed=0]

Each kill comes at a random moment of a start, a compilation, a step, a save or an evaluation, by
SIGKILL (a "kill") or SIGTERM (a "term"); of several processes it takes one or all. The same command
then goes on. Prints a table of the kills; exit code 1 if anything differs at the end.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jepa_jax.exits import FINISHED, STOPPED
from jepa_jax.training import loop
from jepa_jax.training.goodput import account_table, goodput
from jepa_jax.training.jsonlines import JsonLines
from tests.tiny import tiny

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 300  # seconds, of any wait
HEARTBEAT = 10  # seconds, after which those that lost one of them end
PHASES = ("start", "compile", "step", "save", "evaluation")
SAVE_EVERY, PROBE_EVERY = 7, 20  # steps
RATES = ("images_per_second", "input_wait")  # in metrics.jsonl; all else is the same every time
DEVICES = 4


def recipe(steps: int):
    """Batches that four devices can share, and something of everything within a few steps."""
    c = tiny()
    c.model.depth = 2
    c.train.batch_size = 32
    c.train.epochs = steps / 44  # 1,437 images are 44 batches
    c.train.warmup_epochs = 0.5
    c.train.log_every = 1
    c.train.checkpoint_every = SAVE_EVERY
    c.probe.every_epochs = PROBE_EVERY / 44
    c.probe.train_images = c.probe.test_images = 200
    return c


class Job:
    """The processes of one start of a run, and what they have told since."""

    def __init__(self, workdir: pathlib.Path, steps: int, processes: int):
        self.workdir, self._began = workdir, time.time()
        workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / "recipe.py"
        file.write_text(
            f"from tests.scale import kills\ndef get_config():\n    return kills.recipe({steps})\n"
        )
        command = [sys.executable, ROOT / "launch" / "train.py"]
        command += [f"--config={file}", f"--workdir={workdir}"]
        if processes > 1:
            command += [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
            command += [f"--heartbeat_seconds={HEARTBEAT}"]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // processes}",
            "PYTHONPATH": str(ROOT),
        }
        self._files = [workdir / f"output_{process}.txt" for process in range(processes)]
        self.processes = []
        for process, file in enumerate(self._files):
            which = [f"--process={process}"] if processes > 1 else []
            with file.open("w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *which],
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def events(self) -> list[dict]:
        """Those of this start."""
        rows = JsonLines(self.workdir / "events.jsonl", event=str).rows()
        return [row for row in rows if row["time"] >= self._began]

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes)

    def until(self, happened: Callable[[], bool]) -> None:
        """Waits for it, or for the end of the job."""
        deadline = time.monotonic() + TIMEOUT
        while not (self.ended() or happened()):
            if time.monotonic() > deadline:
                raise TimeoutError(self.output())
            time.sleep(0.002)

    def send(self, number: signal.Signals, which: list[int]) -> None:
        for index in which:
            self.processes[index].send_signal(number)

    def codes(self) -> list[int]:
        """The exit codes, once all have ended."""
        return [process.wait(TIMEOUT) for process in self.processes]

    def output(self) -> str:
        return "\n".join(file.read_text() for file in self._files)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def windows(events: list[dict]) -> dict[str, float]:
    """Within how many seconds of its beginning a phase is hit, from an undisturbed run."""
    account = goodput(events)
    evaluations = [row["seconds"]["evaluation"] for row in events if row["event"] == "evaluation"]
    return {
        "start": account.seconds["start"],
        "compile": account.seconds["compile"],
        "step": 0.02,
        "save": 0.1,  # it takes longer with other work on the machine
        "evaluation": min(evaluations),
    }


def wait_for(phase: str, job: Job, seconds: float, rng: random.Random) -> None:
    """Until a random moment of a phase."""

    def told(event: str, times: int = 1, **fields) -> bool:
        rows = [row for row in job.events() if row["event"] == event]
        return sum(fields.items() <= row.items() for row in rows) >= times

    def saving() -> bool:
        return told("compile") and any((job.workdir / "checkpoints").glob("*tmp*"))

    def probing() -> bool:
        rows = [row for row in job.events() if row["event"] == "checkpoint"]
        return bool(rows) and rows[-1]["step"] % PROBE_EVERY == 0

    steps = rng.randint(1, SAVE_EVERY)
    job.until(
        {
            "start": lambda: True,
            "compile": lambda: told("restore"),
            "step": lambda: told("step", steps),
            "save": saving,
            "evaluation": probing,
        }[phase]
    )
    until = time.monotonic() + rng.uniform(0, seconds)
    job.until(lambda: time.monotonic() >= until)


@dataclasses.dataclass
class Kill:
    phase: str
    number: signal.Signals
    which: list[int]  # processes
    last: str = ""  # what the run had told last
    codes: tuple[int, ...] = ()
    seconds: float = 0.0  # until all processes had ended


def disturbed(
    workdir: pathlib.Path,
    steps: int,
    processes: int,
    kills: list[Kill],
    within: dict[str, float],
    rng: random.Random,
) -> Iterator[Kill]:
    """Runs to the end in spite of the kills, and yields each when it is done."""
    kills = list(kills)
    while True:
        job = Job(workdir, steps, processes)
        try:
            if kills:
                kill = kills[0]
                wait_for(kill.phase, job, within[kill.phase], rng)
                if not job.ended():
                    events = job.events()
                    last = events[-1] if events else {"event": "nothing"}
                    kill.last = f"{last['event']} {last.get('step', '')}".strip()
                    begun = time.monotonic()
                    job.send(kill.number, kill.which)
                    kill.codes = tuple(job.codes())
                    kill.seconds = time.monotonic() - begun
                    check_codes(kill, job)
                    kills.pop(0)
                    yield kill
                    continue
            if any(job.codes()):
                raise AssertionError(job.output())
            if kills:
                raise AssertionError(
                    f"the run was over before {len(kills)} of the kills: more steps"
                )
            return
        finally:
            job.end()


def check_codes(kill: Kill, job: Job) -> None:
    """A term is answered by the documented code; by death only before the run can save."""
    if kill.number == signal.SIGTERM:
        allowed = {STOPPED, FINISHED} if job.events() else {STOPPED, -signal.SIGTERM}
        if kill.phase in ("start", "compile"):
            allowed.add(-signal.SIGTERM)
        if set(kill.codes) - allowed:
            raise AssertionError(f"{kill}\n{job.output()}")
    elif 0 in kill.codes or any(kill.codes[i] != -signal.SIGKILL for i in kill.which):
        raise AssertionError(f"{kill}\n{job.output()}")


def plan(kills: int, terms: int, processes: int, rng: random.Random) -> list[Kill]:
    """Each phase about as often, in a random order."""
    made = []
    for number, count in ((signal.SIGKILL, kills), (signal.SIGTERM, terms)):
        for i in range(count):
            all_or_one = rng.choice([[*range(processes)], [rng.randrange(processes)]])
            made.append(Kill(PHASES[i % len(PHASES)], number, all_or_one))
    rng.shuffle(made)
    return made


def differences(workdir: pathlib.Path, other: pathlib.Path, steps: int) -> list[str]:
    """What the ends of two runs do not have in common, bit for bit."""
    found = []
    one, two = (final_state(path, steps) for path in (workdir, other))
    for (path, a), (_, b) in zip(one, two, strict=True):
        if a.dtype != b.dtype or a.tobytes() != b.tobytes():
            found.append(jax.tree_util.keystr(path, simple=True, separator="/"))
    one, two = (metrics(path) for path in (workdir, other))
    if [row["step"] for row in two] != list(range(1, steps + 1)):
        found.append(f"steps of metrics.jsonl: {[row['step'] for row in two]}")
    for a, b in zip(one, two, strict=False):
        names = a.keys() | b.keys()
        changed = [name for name in names if name not in RATES and a.get(name) != b.get(name)]
        found += [f"step {a['step']}: {n} {a.get(n)} and {b.get(n)}" for n in sorted(changed)]
    one, two = (json.loads((path / "results.json").read_text()) for path in (workdir, other))
    if one != two:
        found.append(f"results.json: {one} and {two}")
    return found


def final_state(workdir: pathlib.Path, steps: int) -> list[tuple]:
    config = recipe(steps)
    run = loop.prepare(config, str(workdir))
    state, start = loop.restore(run)
    assert start.step == steps, start
    return [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def metrics(workdir: pathlib.Path) -> list[dict]:
    return JsonLines(workdir / "metrics.jsonl", step=int).rows()


def straight(workdir: pathlib.Path, steps: int, processes: int) -> dict[str, float]:
    """A run that nobody disturbs; how long its phases take."""
    job = Job(workdir, steps, processes)
    try:
        if any(job.codes()):
            raise AssertionError(job.output())
    finally:
        job.end()
    return windows(job.events())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    console = Console(width=120)
    steps = 30 * (args.kills + args.terms)
    with tempfile.TemporaryDirectory() as folder:
        one, two = pathlib.Path(folder, "straight"), pathlib.Path(folder, "disturbed")
        within = straight(one, steps, args.processes)
        console.print({name: round(seconds, 3) for name, seconds in within.items()})
        kills = plan(args.kills, args.terms, args.processes, rng)
        table = Table("", "signal", "processes", "during", "last event", "exit codes", "seconds")
        for i, kill in enumerate(disturbed(two, steps, args.processes, kills, within, rng), 1):
            cells = (i, kill.number.name, kill.which, kill.phase, kill.last, kill.codes)
            table.add_row(*map(str, cells), f"{kill.seconds:.1f}")
            print(*cells, f"{kill.seconds:.1f} s", flush=True)
        console.print(table)
        console.print(account_table(goodput(JsonLines(two / "events.jsonl", event=str).rows())))
        found = differences(one, two, steps)
        console.print("\n".join(found[:50]) if found else "no difference")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
