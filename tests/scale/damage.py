"""Checkpoints of a training run, damaged many times: nothing that is damaged passes for sound.

    python -m tests.scale.damage [TRIALS]

In each trial a file of the newest checkpoint, or one of each of the two newest, is deleted,
truncated or hit by a bit flip at a random place; files and kinds of damage take turns. Then the run
is resumed. Either the damage is noticed, and the newest sound checkpoint is what is resumed from,
or it is harmless: all leaves and all that lies beside them are what was saved. Prints a table, and
exits with 1 if a trial ended otherwise.
"""

import collections
import itertools
import logging
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jepa_jax.training import loop, storage
from jepa_jax.training.checkpoints import Checkpoints, with_sharding
from jepa_jax.training.store import Restored
from tests.damaging import delete, files, flip, truncate
from tests.tiny import tiny

TRIALS = 200
STEPS = (2, 4, 6)
KINDS = (delete, truncate, flip)
GOOD = ("noticed", "harmless")


def recipe():
    c = tiny()
    c.data.test_split = ""
    c.train.epochs, c.train.warmup_epochs = STEPS[-1] / 22, 0.0  # 22 batches are an epoch
    c.train.checkpoint_every = 2
    return c


def equal(a: Restored, b: Restored) -> bool:
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a.state, b.state)
    return a.step == b.step and a.about == b.about and all(jax.tree.leaves(same))


def name_of(file: pathlib.Path) -> str:
    """Its path in the checkpoint, without what is random in it."""
    path = str(file).partition(f"/checkpoints/{STEPS[-1]}/")[2]
    return re.sub(r"[0-9a-f]{32}", "*", path)


def sound_ones(run: loop.Run, shapes: Any, folder: pathlib.Path) -> dict[int, Restored]:
    """What each step restores to, as long as nothing is damaged."""
    found = {}
    for step in STEPS:
        shutil.copytree(run.workdir.path / "checkpoints" / str(step), folder / str(step))
        found[step] = Checkpoints(folder, run.config.train).restore(shapes)
    return found


def trial(
    run: loop.Run,
    shapes: Any,
    sound: dict[int, Restored],
    damages: list[tuple[Callable, pathlib.Path]],
    seed: int,
) -> str:
    """How it ended: as one of GOOD, or what went wrong.

    Args:
      damages: what is done to which files of the run.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "checkpoints"
        shutil.copytree(run.workdir.path / "checkpoints", folder)
        for damage, file in damages:
            damage(folder / file.relative_to(run.workdir.path / "checkpoints"), rng)
        checkpoints = Checkpoints(folder, run.config.train, say=lambda text: None)
        try:
            checkpoints.about()
            restored = checkpoints.restore(shapes)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:100]
    if not equal(restored, sound[restored.step]):
        return "silently wrong"
    if restored.step < STEPS[-1 - len(damages)]:
        return "a sound one was passed over"
    return "harmless" if restored.step == STEPS[-1] else "noticed"


def trials(number: int, folder: pathlib.Path) -> dict[tuple[str, str], collections.Counter]:
    """How the trials ended, by kind of file and kind of damage."""
    loop.train(recipe(), str(folder / "run"))
    run = loop.prepare(recipe(), str(folder / "run"))
    shapes = with_sharding(run.shapes, run.sharding)
    sound = sound_ones(run, shapes, folder / "sound")
    newest, before = (
        itertools.cycle(itertools.product(KINDS, files(folder / "run", step)))
        for step in (STEPS[-1], STEPS[-2])
    )
    ends = collections.defaultdict(collections.Counter)
    for seed in range(number):
        damages = [next(newest)]
        if seed % 4 == 3:
            damages.append(next(before))
        kind, file = damages[0]
        ends[name_of(file), kind.__name__][trial(run, shapes, sound, damages, seed)] += 1
    return ends


def main(number: int) -> int:
    storage.WAITS = ()  # nothing here gets better by waiting
    logging.disable(logging.CRITICAL)  # orbax tells of each damage
    with tempfile.TemporaryDirectory() as name:
        ends = trials(number, pathlib.Path(name))
    table = Table("file of the newest checkpoint", "damage", "trials", *GOOD, "otherwise")
    for (file, kind), counts in sorted(ends.items()):
        otherwise = [f"{end}: {count}" for end, count in counts.items() if end not in GOOD]
        good = [str(counts[end]) for end in GOOD]
        table.add_row(file, kind, str(counts.total()), *good, "; ".join(otherwise))
    totals = sum(ends.values(), collections.Counter())
    table.add_section()
    bad = totals.total() - sum(totals[end] for end in GOOD)
    table.add_row("in all", "", str(totals.total()), *(str(totals[end]) for end in GOOD), str(bad))
    Console(width=120).print(table)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else TRIALS))
