"""What it costs that a run cannot be lost: a step with and without it, a save, a restore."""

import pathlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax.benchmark.ours import Training
from jepa_jax.errors import UserError
from jepa_jax.training.checkpoints import Checkpoints, with_sharding
from jepa_jax.training.checksums import checksums
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.rate import Rate
from jepa_jax.training.watchdog import Watchdog
from jepa_jax.training.workdir import Workdir

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
    run = _Run(config, folder)
    run.steps(1, save_every=1)  # compiles
    run.checkpoints.wait()
    run.took.clear()
    for _ in range(rounds):
        run.timed(PLAIN, lambda: run.steps(steps), steps)
        run.timed(CAREFUL, lambda: run.careful_steps(steps, every), steps)
    for number in range(rounds + 1):
        first = "" if number else "the first "
        for what, action in (
            (f"{first or 'a '}restore", run.restore),
            (f"{first}verification", lambda: checksums(run.training.state)),
        ):
            if first:
                jax.clear_caches()
            run.timed(what, action)
    return run.took


class _Run:
    """A state in training on one batch of noise, its checkpoints, and how long what took."""

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        self.training = Training(config)
        state = self.training.state
        self._places = with_sharding(state, jax.tree.map(lambda leaf: leaf.sharding, state))
        self._batch, self._folder = self.training.batch(), folder
        self.checkpoints = Checkpoints(folder / "checkpoints", config.train)
        self.took: list[dict[str, Any]] = []

    def timed(self, what: str, action: Callable[[], Any], times: int = 1) -> None:
        begin = time.monotonic()
        action()
        self.took.append({"what": what, "seconds": (time.monotonic() - begin) / times})

    def steps(self, number: int, save_every: int = 0, ledger: Ledger | None = None) -> None:
        ledger = ledger or Ledger(lambda event, **fields: None)
        rate = Rate(self.training.config.train.batch_size, ledger)
        for step in range(1, number + 1):
            with rate.waiting():  # for images, of which there are some
                batch = self._batch
            rate.tick(self.training.step(batch))
            if save_every and step % save_every == 0:
                self.training.wait()
                ledger.record("step", step=step)
                with ledger("checkpoint", step=step):
                    self.timed("a save", self._save)
        self.training.wait()

    def careful_steps(self, number: int, save_every: int) -> None:
        workdir = Workdir(self._folder)
        with (
            Ledger(workdir.record) as ledger,
            Watchdog(ledger, self.training.config.guard.hang_minutes, workdir.path / "stacks.txt"),
        ):
            self.steps(number, save_every, ledger)
            self.checkpoints.wait()  # the last one is written in the background: it counts too

    def _save(self) -> None:
        state = self.training.state
        self.checkpoints.save(int(state.step), state, {})

    def restore(self) -> None:
        self.training.state = None  # makes room
        self.training.state = self.checkpoints.restore(self._places).state
        self.training.wait()


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
