"""Runs that are hurt from inside: images that are not finite, an explosion, data that hangs.

    python -m tests.scale.hurt [SCENARIO …]

Real training processes, each of which must end as docs/resuming.md says. Images are uint8, and
never NaN: here the recipe's file makes some batches so, as faulty memory might. Prints a table;
exit code 1 if a scenario did not end as promised.
"""

import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Collection

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from rich.table import Table

from jepa_jax.exits import FINISHED, HUNG, WRONG_INPUT
from jepa_jax.training import loop
from jepa_jax.training.jsonlines import JsonLines
from tests.scale.endings import metrics
from tests.scale.jobs import Job
from tests.tiny import tiny

STEPS = 30
HANG = "--config.guard.hang_minutes=0.2"


def recipe(spoilt: Collection[int] = (), **data) -> ConfigDict:
    """Of STEPS steps, a log of each, and a checkpoint every 5.

    Args:
      spoilt: the batches, by number from 0, whose images are NaN.
      data: settings of it.
    """
    spoil(spoilt)
    c = tiny()
    c.data.update(data)
    c.data.test_split = ""
    c.train.epochs = STEPS / 22
    c.train.log_every = 1
    c.train.checkpoint_every = 5
    c.guard.in_a_row, c.guard.roll_backs = 3, 2
    return c


def spoil(numbers: Collection[int]) -> None:
    """Makes batches of this process NaN, from now on."""
    sound = loop.train_batches

    def spoilt(*args, start, **kwargs):
        for number, batch in enumerate(sound(*args, start=start, **kwargs), start):
            images = batch.images.astype(np.float32) / 255
            yield batch._replace(images=images * np.nan) if number in numbers else batch

    loop.train_batches = spoilt


class Scene:
    """A folder with a recipe and a run of it, by one process."""

    def __init__(self, folder: pathlib.Path, **arguments):
        self.run = folder / "run"
        self._file, self._cache = folder / "recipe.py", folder.parent / "cache"
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self._file.write_text(
            "from tests.scale import hurt\n\n\n"
            f"def get_config():\n    return hurt.recipe({given})\n"
        )

    def start(self, *flags: str) -> Job:
        return Job(self._file, self.run, 1, flags, cache=self._cache)

    def ends(self, code: int, *flags: str) -> str:
        """What a start says, if it ends with this exit code."""
        with self.start(*flags) as job:
            assert job.codes() == (code,), job.output()
            return job.output()

    def events(self, name: str) -> list[dict]:
        rows = JsonLines(self.run / "events.jsonl", event=str).rows()
        return [row for row in rows if row["event"] == name]

    def steps(self) -> list[int]:
        return [row["step"] for row in metrics(self.run)]

    def images(self, *batches: int) -> list[list[int]]:
        """Which examples are in a batch."""
        loader = loop.prepare(recipe(), str(self.run)).loader
        return [loader[number]["index"].tolist() for number in batches]


def check_left_out(scene: Scene, batches: Collection[int]) -> None:
    """Whether events.jsonl tells of these batches, and of their images, and of no others."""
    found = [row["images"] for row in scene.events("skipped")]
    assert found == scene.images(*batches), found


def a_nan_batch(folder: pathlib.Path) -> str:
    scene = Scene(folder, spoilt=[11])
    said = scene.ends(FINISHED)
    assert "warning: step 12 changed nothing" in said, said
    check_left_out(scene, [11])
    assert [row["skipped"] for row in metrics(scene.run)] == 11 * [0] + 19 * [1]
    assert scene.steps() == [*range(1, STEPS + 1)]
    return "step 12 left out and counted, its 64 images in events.jsonl; finished"


def three_nan_batches(folder: pathlib.Path) -> str:
    scene = Scene(folder, spoilt=[11, 12, 13])
    scene.ends(FINISHED)
    check_left_out(scene, [11, 12, 13])
    (back,) = scene.events("roll_back")
    assert (back["at"], back["step"], back["skipped_batches"]) == (14, 10, 4), back
    assert all(row["skipped"] == 0 for row in metrics(scene.run))
    assert scene.steps() == [*range(1, STEPS + 1)]
    return "back from step 14 to 10, 4 batches skipped; finished"


def nan_batches_for_good(folder: pathlib.Path) -> str:
    scene = Scene(folder, spoilt=range(11, 10_000))
    line = last_line(scene.ends(WRONG_INPUT))
    assert "after 2 roll-backs: start again" in line, line
    # The second and the third time they come right after the restored step, 10.
    check_left_out(scene, range(11, 20))
    assert len(scene.events("roll_back")) == 2
    return line


def an_explosion(folder: pathlib.Path) -> str:
    scene = Scene(folder)
    line = last_line(
        scene.ends(
            WRONG_INPUT, "--config.optim.learning_rate=1e30", "--config.train.warmup_epochs=1"
        )
    )
    assert "after 2 roll-backs: start again" in line, line
    assert len(scene.events("roll_back")) == 2
    return line


def a_stopped_worker(folder: pathlib.Path) -> str:
    scene = Scene(folder, workers=1)
    with scene.start(HANG) as job:
        job.until(lambda: job.told("step", 3))
        stopped = children(job.processes[0].pid)
        for worker in stopped:
            os.kill(worker, signal.SIGSTOP)
        assert job.codes() == (HUNG,), job.output()
        line = hung_in(scene, job.output(), "data_wait")
        assert not [worker for worker in stopped if alive(worker)]
    scene.ends(FINISHED)
    assert scene.steps() == [*range(1, STEPS + 1)]
    return f"{line}; the same command finished"


def a_file_that_never_comes(folder: pathlib.Path) -> str:
    photos = folder / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(128):
        Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).save(photos / f"{number}.png")
    scene = Scene(folder, source="folder", path=str(photos))
    with scene.start(HANG) as job:
        job.until(lambda: job.told("restore"))
        sound = (photos / "5.png").read_bytes()
        (photos / "5.png").unlink()
        os.mkfifo(photos / "5.png")  # to open it is to wait for one who writes
        assert job.codes() == (HUNG,), job.output()
        line = hung_in(scene, job.output(), "data_wait")
    (photos / "5.png").unlink()
    (photos / "5.png").write_bytes(sound)
    scene.ends(FINISHED)
    assert scene.steps() == [*range(1, len(scene.steps()) + 1)]
    return f"{line}; the same command finished, once the file was back"


def hung_in(scene: Scene, said: str, doing: str) -> str:
    """What the watchdog said, if it said so everywhere."""
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    (event,) = scene.events("hung")
    assert repr(doing) in event["reason"], event
    assert event["reason"] in line, line
    stacks = (scene.run / "stacks_0.txt").read_text()
    assert "most recent call first" in stacks, stacks
    assert "in steps" in stacks, stacks
    return line


def last_line(said: str) -> str:
    return [line for line in said.splitlines() if line.startswith("error: ")][-1]


def children(process: int) -> list[int]:
    """The processes that Python started for it."""
    found = pathlib.Path(f"/proc/{process}/task").glob("*/children")
    every = [int(child) for file in found for child in file.read_text().split()]
    return [
        child
        for child in every
        if "spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_text()
    ]


def alive(process: int) -> bool:
    """Whether it is there, and not merely waits for someone to take note of its end."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


SCENARIOS = {
    story.__name__: story
    for story in (
        a_nan_batch,
        three_nan_batches,
        nan_batches_for_good,
        an_explosion,
        a_stopped_worker,
        a_file_that_never_comes,
    )
}


def main(names: list[str]) -> int:
    table = Table("", "as promised", "", show_lines=True)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        for number, story in enumerate(names or SCENARIOS):
            folder = pathlib.Path(name) / str(number)
            folder.mkdir()
            try:
                row = story.replace("_", " "), "yes", SCENARIOS[story](folder)
            except AssertionError as problem:
                failures += 1
                row = story.replace("_", " "), "NO", str(problem)[-2000:]
            print(*row, sep="; ", flush=True)
            table.add_row(*row)
    Console(width=140).print(table)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
