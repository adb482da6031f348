"""What it costs that a run cannot be lost: a step with and without it, a save, a restore."""

import pathlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax import ijepa, masks
from jepa_jax.config import mask_spec, mesh_shape
from jepa_jax.errors import UserError
from jepa_jax.parallel.sharding import batch_sharding, make_mesh, tree_sharding
from jepa_jax.training.checkpoints import Checkpoints, with_sharding
from jepa_jax.training.checksums import checksums
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.rate import Rate
from jepa_jax.training.setup import build_model, jit_step
from jepa_jax.training.watchdog import Watchdog
from jepa_jax.training.workdir import Workdir
from jepa_jax.validation import validate

STEPS_PER_EPOCH = 1000  # of schedules that are of no account here
PLAIN, CAREFUL = "a step", "a step with checkpoints, events and watchdog"


def measure(
    config: ConfigDict, folder: pathlib.Path, *, steps: int, every: int, rounds: int
) -> list[dict[str, Any]]:
    """Rounds of training without and with precautions, one after the other, and of restores.

    Args:
      folder: on the disk that is to be measured.
      steps: of a round.
      every: so many steps the state is saved.

    Returns:
      A row of what was done and how many seconds it took, for each: PLAIN, a step that nothing else
      is done about; CAREFUL, one with checkpoints, events.jsonl and watchdog; "a save" (for as long
      as the steps wait for it), "a restore" and the "verification" in it; "first" in a process,
      these two also compile.

    Raises:
      UserError: if nothing would be saved in a round.
    """
    if steps < every:
        raise UserError(f"--steps={steps} end before the first save: take --every={steps}, or less")
    training = _Training(config, folder)
    training.steps(1, save_every=1)  # compiles
    training.checkpoints.wait()
    training.took.clear()
    for _ in range(rounds):
        training.timed(PLAIN, lambda: training.steps(steps), steps)
        training.timed(CAREFUL, lambda: training.careful_steps(steps, every), steps)
    for number in range(rounds + 1):
        first = "" if number else "the first "
        for what, action in (
            (f"{first or 'a '}restore", training.restore),
            (f"{first}verification", lambda: checksums(training.state)),
        ):
            if first:
                jax.clear_caches()
            training.timed(what, action)
    return training.took


class _Training:
    """A state in training on one batch of noise, its checkpoints, and how long what took."""

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        validate(config, jax.device_count())
        self._config, self._folder = config, folder
        self._mesh = make_mesh(mesh_shape(config, jax.device_count()))
        self._model = build_model(config, STEPS_PER_EPOCH)
        image = (*config.data.image_size, config.data.channels)
        shapes = jax.eval_shape(lambda: ijepa.init(self._model, jax.random.key(0), image))
        sharding = tree_sharding(shapes, self._mesh)
        self._places = with_sharding(shapes, sharding)
        self._step = jit_step(sharding)
        self._batch = _noise(config, self._mesh)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.train)
        init = jax.jit(
            lambda: ijepa.init(self._model, jax.random.key(0), image), out_shardings=sharding
        )
        self.state = init()
        self.took: list[dict[str, Any]] = []

    def timed(self, what: str, action: Callable[[], Any], times: int = 1) -> None:
        begin = time.monotonic()
        action()
        self.took.append({"what": what, "seconds": (time.monotonic() - begin) / times})

    def steps(self, number: int, save_every: int = 0, ledger: Ledger | None = None) -> None:
        ledger = ledger or Ledger(lambda event, **fields: None)
        rate = Rate(self._config.train.batch_size, ledger)
        for step in range(1, number + 1):
            with rate.waiting():  # for images, of which there are some
                batch = self._batch
            with jax.set_mesh(self._mesh):
                self.state, metrics = self._step(self._model, self.state, batch)
            rate.tick(metrics.loss)
            if save_every and step % save_every == 0:
                jax.block_until_ready(self.state)
                ledger.record("step", step=step)
                with ledger("checkpoint", step=step):
                    self.timed("a save", self._save)
        jax.block_until_ready(self.state)

    def careful_steps(self, number: int, save_every: int) -> None:
        workdir = Workdir(self._folder)
        with (
            Ledger(workdir.record) as ledger,
            Watchdog(ledger, self._config.guard.hang_minutes, workdir.path / "stacks.txt"),
        ):
            self.steps(number, save_every, ledger)
            self.checkpoints.wait()  # the last one is written in the background: it counts too

    def _save(self) -> None:
        self.checkpoints.save(int(self.state.step), self.state, {})

    def restore(self) -> None:
        self.state = None  # makes room
        self.state = self.checkpoints.restore(self._places).state
        jax.block_until_ready(self.state)


def _noise(config: ConfigDict, mesh: jax.sharding.Mesh) -> ijepa.Batch:
    data, size = config.data, config.train.batch_size
    shape = (size, *data.image_size, data.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    drawn = masks.sample(jax.random.key(0), mask_spec(config), size, draws=config.train.draws)
    return jax.device_put(ijepa.Batch(images, drawn), batch_sharding(mesh))


def report(rows: list[dict[str, Any]]) -> None:
    """A table of medians, with their spread, and what CAREFUL is to PLAIN, round by round."""
    table = Table("", "seconds", "lowest–highest", "times")
    seconds = defaultdict(list)
    for row in rows:
        seconds[row["what"]].append(row["seconds"])
    for what, values in seconds.items():
        spread = f"{min(values):.3g}–{max(values):.3g}"
        table.add_row(what, f"{statistics.median(values):.3g}", spread, str(len(values)))
    ratios = [b / a for a, b in zip(seconds[PLAIN], seconds[CAREFUL], strict=True)]
    spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
    Console().print(table, f"{CAREFUL}: {statistics.median(ratios):.3f} of one without ({spread})")
