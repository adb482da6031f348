"""How fast a recipe's masks are drawn, and what share of a step that is."""

import statistics
import time
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax import masks
from jepa_jax.benchmark.peaks import SHEETS, sheet_peak
from jepa_jax.config import mask_spec
from jepa_jax.errors import UserError
from jepa_jax.flops import step_flops


def measure(
    config: ConfigDict, *, rounds: int, seconds: float, chip: str, chips: int, mfu: float
) -> list[dict[str, Any]]:
    """Draws the masks of whole batches, again and again.

    Args:
      seconds: of a round.
      chip: one of `peaks.SHEETS`, for a step to hold them against.
      chips: that one process feeds, which draws the masks of the whole batch.
      mfu: share of the chips' peak that the step is supposed to reach.

    Returns:
      One row. In each round a batch took batch_seconds by the clock, core_seconds of all threads
      together; images_per_second of one core; share of a step, which would take step_seconds.

    Raises:
      UserError: if there is no such chip.
    """
    peak = sheet_peak(chip)
    if peak is None:
        raise UserError(f"--chip={chip} is none of {', '.join(SHEETS)}")
    spec, size, draws = mask_spec(config), config.train.batch_size, config.train.draws
    with masks.on_host():
        key = jax.random.key(config.seed)
    masks.sample(key, spec, size, draws=draws)  # compiles
    batch_seconds, core_seconds = [], []
    for _ in range(rounds):
        batches, begin, begin_cores = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            with masks.on_host():
                own = jax.random.fold_in(key, batches)
            masks.sample(own, spec, size, draws=draws)
            batches += 1
        batch_seconds.append((time.perf_counter() - begin) / batches)
        core_seconds.append((time.process_time() - begin_cores) / batches)
    step_seconds = step_flops(config) / (chips * peak * mfu)
    row = {
        "grid": list(spec.grid),
        "context": spec.num_context,
        "batch": size,
        "batch_seconds": batch_seconds,
        "core_seconds": core_seconds,
        "images_per_second": size / statistics.median(core_seconds),
        "step_seconds": step_seconds,
        "share": statistics.median(batch_seconds) / step_seconds,
    }
    return [row]


def report(found: list[dict[str, Any]]) -> None:
    """A table, with the spread of the rounds."""
    (row,) = found
    rows, columns = row["grid"]
    table = Table("masks", f"{rows}×{columns}, {row['context']} in the context")
    speeds = [row["batch"] / seconds for seconds in row["core_seconds"]]
    table.add_row("images/s of one core", f"{row['images_per_second']:,.0f}")
    table.add_row("lowest–highest", f"{min(speeds):,.0f}–{max(speeds):,.0f}")
    table.add_row(
        f"a batch of {row['batch']:,}, ms", f"{1e3 * statistics.median(row['batch_seconds']):,.2f}"
    )
    table.add_row("the step that it is held against, ms", f"{1e3 * row['step_seconds']:,.1f}")
    table.add_row("share of it", f"{row['share']:.2%}")
    Console().print(table)
