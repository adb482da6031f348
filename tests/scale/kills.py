"""Kills a run again and again, and compares what comes out with a run that nobody disturbed.

    python -m tests.scale.kills [--kills=20] [--terms=10] [--processes=1] [--seed=0]
        [--folder=FOLDER]

Each kill comes at a random moment of a start, a compilation, a step, a save or an evaluation, by
SIGKILL (a "kill") or SIGTERM (a "term"); of several processes it takes one or all. The same command
then goes on. --processes=2,1,4 starts with two processes, goes on with one, then with four, and so
on; the devices are the same four. Prints a table of the kills; exit code 1 if anything differs at
the end, or, where the number of processes changed, if a loss is off by more than 1e-5.
"""

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from rich.console import Console
from rich.table import Table

from jepa_jax.exits import FINISHED, STOPPED
from jepa_jax.training.goodput import account_table, goodput
from jepa_jax.training.jsonlines import JsonLines
from tests.scale.endings import WITHIN, differences, loss_differences
from tests.scale.jobs import Job
from tests.scale.run_steps import shared_recipe

PHASES = ("step", "save", "evaluation", "compile", "start")  # most to lose first
SAVE_EVERY, PROBE_EVERY = 5, 10  # steps
EPOCH = 44  # steps
BUSY = "Gloo context initialization failed: DEADLINE_EXCEEDED"


def recipe(steps: int):
    """Something of everything within a few steps."""
    c = shared_recipe()
    c.data.test_split = "test"
    c.train.epochs = steps / EPOCH
    c.train.log_every = 1
    c.train.checkpoint_every = SAVE_EVERY
    c.probe.every_epochs = PROBE_EVERY / EPOCH
    c.probe.train_images = c.probe.test_images = 200
    return c


def write_recipe(file: pathlib.Path, steps: int) -> pathlib.Path:
    """The file that `launch/train.py` is given."""
    file.write_text(
        f"from tests.scale import kills\ndef get_config():\n    return kills.recipe({steps})\n"
    )
    return file


@dataclasses.dataclass
class Kill:
    """What is done to a start of the run, and what came of it."""

    phase: str
    number: signal.Signals
    everyone: bool = True  # or one of the processes
    which: tuple[int, ...] = ()  # processes that it hit
    processes: int = 0  # of which
    last: str = ""  # what the run had told last
    codes: tuple[int, ...] = ()
    seconds: float = 0.0  # until all processes had ended

    def cells(self) -> list[str]:
        hit = ", ".join(map(str, self.which))
        codes = ", ".join(map(str, self.codes))
        who = f"{hit} of {self.processes}" if self.processes > 1 else "1"
        return [self.number.name, self.phase, self.last, who, codes, f"{self.seconds:.1f}"]


def plan(kills: int, terms: int, rng: random.Random) -> list[Kill]:
    """Each phase about as often, in a random order."""
    made = [
        Kill(PHASES[i % len(PHASES)], number, everyone=rng.random() < 0.5)
        for number, count in ((signal.SIGKILL, kills), (signal.SIGTERM, terms))
        for i in range(count)
    ]
    rng.shuffle(made)
    return made


class Undisturbed(NamedTuple):
    """A run that nobody disturbed, and what it takes to have another one."""

    steps: int
    file: pathlib.Path  # of the recipe
    workdir: pathlib.Path
    cache: pathlib.Path  # of compiled programs
    windows: dict[str, float]

    @classmethod
    def of(cls, folder: pathlib.Path, steps: int, processes: int = 1) -> Self:
        """Makes it, in a folder."""
        file = write_recipe(folder / "recipe.py", steps)
        workdir, cache = folder / "straight", folder / "cache"
        with Job(file, workdir, processes, cache=cache) as job:
            if any(job.codes()):
                raise AssertionError(job.output())
            return cls(steps, file, workdir, cache, windows(job.events()))


def disturbed(
    like: Undisturbed,
    workdir: pathlib.Path,
    kills: Sequence[Kill],
    rng: random.Random,
    processes: Sequence[int] = (1,),
) -> Iterator[Kill]:
    """Runs to the end in spite of the kills, and yields each when it is done.

    Args:
      like: whose compiled programs are used; a start that is to be killed as it compiles has none.
      processes: of one start after the other, over and over.
    """
    counts = itertools.cycle(processes)
    for kill in kills:
        while not start(like, workdir, next(counts), kill, rng):
            print("a start ended as the machine was too busy; the next one goes on", flush=True)
        yield kill
    while not start(like, workdir, next(counts)):
        print("a start ended as the machine was too busy; the next one goes on", flush=True)


def start(
    like: Undisturbed,
    workdir: pathlib.Path,
    processes: int,
    kill: Kill | None = None,
    rng: random.Random | None = None,
) -> bool:
    """One start of the run, which is killed, or else comes to its end.

    Returns:
      False if Gloo ended it before: one process was there half a minute before another one.
    """
    saved = last_saved(workdir)
    cache = None if kill and kill.phase == "compile" else like.cache
    with Job(like.file, workdir, processes, cache=cache) as job:
        if kill:
            wait_for(kill.phase, job, like.windows[kill.phase], rng)
        if not kill or job.ended():
            if any(job.codes()):
                check_restored(job, saved)
                if BUSY in job.output():
                    return False
                raise AssertionError(job.output())
            if kill:
                raise AssertionError(f"the run was over before {kill}")
        else:
            everyone = tuple(job.processes)
            kill.processes = len(everyone)
            kill.which = everyone if kill.everyone else (rng.choice(everyone),)
            rows = job.events()
            kill.last = (
                f"{rows[-1]['event']} {rows[-1].get('step', '')}".strip() if rows else "none"
            )
            begun = time.monotonic()
            job.send(kill.number, *kill.which)
            kill.codes = job.codes()
            kill.seconds = time.monotonic() - begun
            check(kill, job)
        check_restored(job, saved)
    return True


def wait_for(phase: str, job: Job, seconds: float, rng: random.Random) -> None:
    """Until a random moment of a phase, or its end."""

    def saving() -> bool:
        return job.told("compile") and any((job.workdir / "checkpoints").glob("*tmp*"))

    def probing() -> bool:
        rows = [row for row in job.events() if row["event"] in ("checkpoint", "evaluation")]
        return (
            bool(rows) and rows[-1]["event"] == "checkpoint" and not rows[-1]["step"] % PROBE_EVERY
        )

    steps = rng.randint(1, SAVE_EVERY)
    begins, is_over = {
        "start": (lambda: True, lambda: job.told("restore")),
        "compile": (lambda: job.told("restore"), lambda: job.told("compile")),
        "step": (lambda: job.told("step", steps), lambda: False),
        "save": (saving, lambda: False),
        "evaluation": (probing, lambda: not probing()),
    }[phase]
    job.until(begins)
    until = time.monotonic() + rng.uniform(0, seconds)
    job.until(lambda: is_over() or time.monotonic() >= until)


def windows(events: Sequence[dict]) -> dict[str, float]:
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


def check(kill: Kill, job: Job) -> None:
    """Whether all ended as they should; those that lost one of them somehow, and not as if well."""
    if kill.number == signal.SIGKILL:
        sound = all(kill.codes[i] == -signal.SIGKILL for i in kill.which) and 0 not in kill.codes
    elif -signal.SIGTERM in kill.codes:  # before it was ready to save
        sound = not job.told("compile") and 0 not in kill.codes
    else:
        sound = set(kill.codes) <= {STOPPED, FINISHED}
    if not sound:
        raise AssertionError(f"{kill}\n{job.output()}")


def last_saved(workdir: pathlib.Path) -> int:
    """The step of the newest checkpoint that is complete, or 0."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def check_restored(job: Job, saved: int) -> None:
    """Whether a start, if it came so far, went on from there."""
    steps = [row["step"] for row in job.events() if row["event"] == "restore"]
    if steps not in ([], [saved]):
        raise AssertionError(f"step {saved} was saved, and {steps} restored\n{job.output()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--processes", default="1", help="of each start, such as 2,1,4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, help="a new one, where the runs stay")
    args = parser.parse_args()
    processes = [int(number) for number in args.processes.split(",")]
    rng = random.Random(args.seed)
    console = Console(width=120)
    steps = 20 + 4 * (args.kills + args.terms)
    with contextlib.ExitStack() as stack:
        folder = args.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        straight, workdir = Undisturbed.of(folder, steps, processes[0]), folder / "disturbed"
        console.print({name: round(seconds, 3) for name, seconds in straight.windows.items()})
        kills = plan(args.kills, args.terms, rng)
        table = Table("", "signal", "during", "last event", "processes", "exit codes", "seconds")
        for number, kill in enumerate(disturbed(straight, workdir, kills, rng, processes), 1):
            table.add_row(str(number), *kill.cells())
            print(number, *kill.cells(), sep="; ", flush=True)
        console.print(table)
        console.print(account_table(goodput(JsonLines(workdir / "events.jsonl", event=str).rows())))
        found = differences(recipe(steps), straight.workdir, workdir)
        console.print("\n".join(found[:50]) if found else f"{steps} steps: no difference")
        if len(set(processes)) > 1:  # sums over devices may run in another order
            found = loss_differences(straight.workdir, workdir)
            console.print("\n".join(found) or f"losses: none is off by more than {WITHIN:g}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
