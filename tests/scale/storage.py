"""A workdir that fills up, becomes read-only or loses its permissions, for a while or for good.

    python -m tests.scale.storage [SCENARIO …]

Real training processes on a small tmpfs, which takes root's right to mount one. Every run must go
on, or end with its exit code and one line; all its metrics must be those of an undisturbed run,
none missing or doubled. Prints a table; exit code 1 if a scenario did not end as promised.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.table import Table

from jepa_jax.exits import STOPPED, STORAGE

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 240  # seconds
LAST = ("error: ", "stopped and saved")
MEGABYTES = 64
# A root that permissions apply to.
OBEYING = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
RECIPE = """
from tests.tiny import tiny

def get_config():
    c = tiny()
    c.data.test_split = ""
    c.train.epochs = 10_000.0
    c.train.log_every = 1
    c.train.checkpoint_every = 20
    return c
"""


class Broken(Exception):
    """A promise was."""


class Training:
    """A run in a folder: a process, and what it says."""

    def __init__(self, folder: pathlib.Path, output: pathlib.Path, *flags: str, root: bool = True):
        self.folder, self._output = folder, output
        recipe = output.with_suffix(".py")
        recipe.write_text(RECIPE)
        command = [] if root else OBEYING
        command = [*command, sys.executable, ROOT / "launch" / "train.py"]
        command += [f"--config={recipe}", f"--workdir={folder}", *flags]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def said(self) -> str:
        return self._output.read_text()

    def until(self, words: str, after: int = 0) -> None:
        """Waits for words in what it says, behind the first `after` characters."""
        deadline = time.monotonic() + TIMEOUT
        while words not in self.said()[after:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"it did not say {words!r}: {self.said()[-2000:]}")
            time.sleep(0.05)

    def until_saved(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not any(path.name.isdigit() for path in (self.folder / "checkpoints").glob("*")):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"it saved nothing: {self.said()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def ended(self, code: int) -> str:
        """What it says last, if it ends with this exit code; orbax may print more."""
        try:
            found = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Broken(f"it did not end: {self.said()[-2000:]}") from None
        if found != code:
            raise Broken(f"exit code {found} instead of {code}: {self.said()[-2000:]}")
        lines = [line for line in self.said().splitlines() if line.startswith(LAST)]
        if not lines:
            raise Broken(f"no line says how it ended: {self.said()[-2000:]}")
        return lines[-1]


def losses(folder: pathlib.Path) -> list[float]:
    """Of all steps from the first on."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if [row["step"] for row in rows] != list(range(1, len(rows) + 1)):
        raise Broken("steps are missing or doubled in metrics.jsonl")
    return [row["loss"] for row in rows]


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory() as folder:
        mount("-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", folder)
        try:
            yield pathlib.Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def filled(disk: pathlib.Path) -> Iterator[None]:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(disk: pathlib.Path) -> Iterator[None]:
    deadline = time.monotonic() + 10
    while True:
        try:
            mount("-o", "remount,ro", str(disk))
            break
        except subprocess.CalledProcessError:  # busy while a file is open
            if time.monotonic() > deadline:
                raise
    yield
    mount("-o", "remount,rw", str(disk))


@contextlib.contextmanager
def forbidden(disk: pathlib.Path) -> Iterator[None]:
    """What may be neither read nor written, by others than root."""
    folder = disk / "run" / "checkpoints"
    folder.chmod(0)
    yield
    folder.chmod(0o777)


def for_a_while(trouble: Callable, run: Callable[..., Training], disk: pathlib.Path) -> str:
    training = run()
    training.until_saved()
    with trouble(disk):
        training.until("could not be saved (")
        training.until("trying again in 20 s")
        steps = len(training.said().splitlines())
        time.sleep(2)
        if len(training.said().splitlines()) <= steps + 2:
            raise Broken("training did not go on meanwhile")
    training.until("is saved, after")
    training.stop()
    return training.ended(STOPPED)


def for_good(trouble: Callable, run: Callable[..., Training], disk: pathlib.Path) -> str:
    training = run("--config.train.checkpoint_max_age_minutes=0.3")
    training.until_saved()
    with trouble(disk):
        line = training.ended(STORAGE)
    if "the last good checkpoint is of step" not in line:
        raise Broken(f"the last line is {line}")
    training = run()
    training.until("going on after step")
    time.sleep(5)
    training.stop()
    training.ended(STOPPED)
    return line


def as_it_stops(trouble: Callable, run: Callable[..., Training], disk: pathlib.Path) -> str:
    training = run()
    training.until_saved()
    with trouble(disk):
        training.until("could not be saved (")
        begin = time.monotonic()
        training.stop()
        line = training.ended(STORAGE)
        seconds = time.monotonic() - begin
    if "could not be saved; the last good checkpoint is of step" not in line or seconds > 60:
        raise Broken(f"after {seconds:.0f} s the last line is {line}")
    return line


def as_it_starts(trouble: Callable, run: Callable[..., Training], disk: pathlib.Path) -> str:
    training = run()
    training.until_saved()
    training.stop()
    training.ended(STOPPED)
    before = sorted((disk / "run" / "checkpoints").iterdir())
    with trouble(disk):
        line = run().ended(STORAGE)
    if sorted((disk / "run" / "checkpoints").iterdir()) != before:
        raise Broken("a checkpoint was moved")
    training = run()
    training.until("going on after step")
    training.stop()
    training.ended(STOPPED)
    return line


SCENARIOS = {
    f"{trouble.__name__} {story.__name__}": (trouble, story)
    for trouble in (filled, read_only, forbidden)
    for story in (for_a_while, for_good, as_it_stops, as_it_starts)
    if (trouble, story) != (filled, as_it_starts)  # which a full disk does not hinder much
}


def undisturbed(folder: pathlib.Path) -> list[float]:
    training = Training(folder / "run", folder / "undisturbed.log")
    training.until_saved()
    time.sleep(90)
    training.stop()
    training.ended(STOPPED)
    return losses(folder / "run")


def attempt(name: str, folder: pathlib.Path, expected: list[float]) -> str:
    """What a run said last, if all was as promised."""
    trouble, story = SCENARIOS[name]
    log = folder / f"{name.replace(' ', '_')}.log"
    with small_disk(MEGABYTES) as disk:

        def run(*flags: str) -> Training:
            return Training(disk / "run", log, *flags, root=trouble is not forbidden)

        line = story(trouble, run, disk)
        found = losses(disk / "run")
    common = min(len(found), len(expected))
    if found[:common] != expected[:common]:
        raise Broken("the losses are not those of an undisturbed run")
    return f"{common} losses are the same; {line.replace(str(disk), 'DISK')}"


def main(names: list[str]) -> int:
    try:
        with small_disk(1):
            pass
    except (OSError, subprocess.CalledProcessError):
        print("skipped: a tmpfs cannot be mounted here (it takes root's rights)")
        return 0
    table = Table("trouble", "as promised", "", show_lines=True)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        expected = undisturbed(folder)
        for name in names or SCENARIOS:
            try:
                table.add_row(name.replace("_", " "), "yes", attempt(name, folder, expected))
            except Broken as problem:
                failures += 1
                table.add_row(name.replace("_", " "), "NO", str(problem))
    Console(width=140).print(table)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
