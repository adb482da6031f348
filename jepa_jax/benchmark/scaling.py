"""How a step's cost grows with batch, tokens, depth or devices, beside what its FLOPs say."""

import pathlib
from contextlib import ExitStack
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax.benchmark.contender import OutOfMemory, start_all, take_turns
from jepa_jax.benchmark.step import our_contender
from jepa_jax.benchmark.step_report import median
from jepa_jax.config import architecture, grid

FACTORS = (1, 2, 4, 8)


def measure(
    config: ConfigDict, folder: pathlib.Path, *, over: str, steps: int, rounds: int
) -> list[dict[str, Any]]:
    """Rounds of steps of a recipe and of larger ones.

    Args:
      over: what grows from the recipe's to eightfold: "batch"; "tokens", by taller images; "depth",
        of the encoder; or "devices", each with the recipe's batch (weak scaling), into which the
        CPU is split.

    Returns:
      A row for each size for which there is memory: "over", "size", and those of
      `jepa_jax.benchmark.step`.

    Raises:
      UserError: if one fails, or if no two sizes fit.
    """
    contenders, rows = [], {}
    with ExitStack() as running:
        for factor in FACTORS:
            grown, size = _grown(config, over, factor)
            devices = factor if over == "devices" else None
            each = our_contender(f"{over}_{factor}", grown, folder, devices)
            running.callback(each.stop)
            try:
                (row,) = start_all([each]).values()
            except OutOfMemory:
                if len(rows) < 2:
                    raise
                break
            contenders.append(each)
            rows[each.name] = {"over": over, "size": size, **row}
        take_turns(contenders, rows, steps=steps, rounds=rounds)
    return list(rows.values())


def _grown(config: ConfigDict, over: str, factor: int) -> tuple[ConfigDict, int]:
    """A recipe that is so many times as large in one respect, and its size in that respect."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if over in ("batch", "devices"):
            config.train.batch_size *= factor
        elif over == "tokens":
            height, width = config.data.image_size
            config.data.image_size = (height * factor, width)
        else:
            config.model.depth = architecture(config)["depth"] * factor
    rows, columns = grid(config)
    sizes = {
        "batch": config.train.batch_size,
        "tokens": rows * columns,
        "depth": architecture(config)["depth"],
        "devices": factor,
    }
    return config, sizes[over]


def exponent(sizes: list[float], values: list[float]) -> float:
    """k of the power law values ∝ sizesᵏ that fits best."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the seconds of a step, and of its FLOPs: the parts of a CPU share its cores."""
    sizes = [row["size"] for row in rows]
    seconds = [median(row, "step_seconds") for row in rows]
    flops = [row["flops"] for row in rows]
    return {"seconds": exponent(sizes, seconds), "flops": exponent(sizes, flops)}


def report(rows: list[dict[str, Any]]) -> None:
    """A table, and the exponents; larger sizes than those of the rows did not fit."""
    table = Table(rows[0]["over"], "step, ms", "lowest–highest", "images/s", "GFLOP/s")
    for row in rows:
        seconds = [each["step_seconds"] for each in row["rounds"]]
        middle = median(row, "step_seconds")
        table.add_row(
            str(row["size"]),
            f"{1e3 * middle:,.1f}",
            f"{1e3 * min(seconds):,.1f}–{1e3 * max(seconds):,.1f}",
            f"{row['images'][0] / middle:,.1f}",
            f"{row['flops'] / middle / 1e9:,.0f}",
        )
    console = Console()
    console.print(table)
    if len(rows) < len(FACTORS):
        console.print("for larger ones memory is too small")
    found = exponents(rows)
    console.print(
        f"a step takes time ∝ {rows[0]['over']}^{found['seconds']:z.2f};"
        f" by its FLOPs it would be {found['flops']:.2f}"
    )
