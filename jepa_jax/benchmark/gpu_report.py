"""What `jepa_jax.benchmark.gpu` found, as a table for each recipe."""

import pathlib
import statistics
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax.benchmark.gpu import COARSE, Row, best_of, failures, measure

IMAGES = 1_281_167  # of ImageNet-1k
PAPER = {"vith14": "the paper's took 1,152 hours of an A100"}  # 16 for 72 hours


def measure_each(
    recipes: dict[str, ConfigDict], folder: pathlib.Path, out: pathlib.Path, **how: Any
) -> list[Row]:
    """As `measure` with `how`, of recipes by name; each is told at once: time may run out."""
    rows = []
    for recipe, config in recipes.items():
        rows = measure(recipe, config, folder, out, **how)
        report(rows, {recipe: config})
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Of the rows "best" of one recipe, ours first: medians, and what follows from them.

    Returns:
      images_per_second; of_ceiling and of_sheet, shares of what a product of large matrices
      reached on this device and of its data sheet (None where that is not known); ahead: how many
      times as fast ours is, round by round.
    """
    ours, found = rows[0], []
    flops = ours["flops"] / ours["batch"]  # an image, of useful work: the same for all
    ceiling = statistics.median(each["measured_peak"] for each in ours["rounds"])
    for row in rows:
        speeds = [row["batch"] / each["step_seconds"] for each in row["rounds"]]
        mine = [ours["batch"] / each["step_seconds"] for each in ours["rounds"]]
        speed = statistics.median(speeds)
        found.append(
            {
                "images_per_second": speed,
                "of_ceiling": flops * speed / ceiling,
                "of_sheet": flops * speed / ours["sheet_peak"] if ours["sheet_peak"] else None,
                "peak_bytes": max(each["peak_bytes"] for each in row["rounds"]),
                "ahead": statistics.median(a / b for a, b in zip(mine, speeds, strict=True)),
            }
        )
    return found


def report(rows: list[dict[str, Any]], recipes: dict[str, ConfigDict]) -> None:
    console = Console()
    for recipe, config in recipes.items():
        best = best_of(rows, recipe, config)
        found = summary(best)
        console.print(_table(f"{recipe}, {best[0]['dtype']}, {best[0]['device']}", best, found))
        hours = {
            row["contender"]: config.train.epochs * IMAGES / each["images_per_second"] / 3600
            for row, each in zip(best, found, strict=True)
        }
        coarser = f", {hours[COARSE]:,.0f} with coarser numbers" if COARSE in hours else ""
        told = f"; {PAPER[recipe]}" if recipe in PAPER else ""
        console.print(
            f"{config.train.epochs:g} epochs of {IMAGES:,} images would take"
            f" {hours[best[0]['contender']]:,.0f} hours of one such device{coarser}{told}"
        )
        for row in failures(rows, recipe, config):
            why = f"{row['failed']}, at a batch of {row['batch']}; the same command tries it again"
            console.print(why, markup=False)


def _table(title: str, rows: list[dict[str, Any]], found: list[dict[str, float]]) -> Table:
    table = Table("", title=title)
    for row in rows:
        table.add_column(row["contender"], justify="right")
    lines = {
        "batch": [str(row["batch"]) for row in rows],
        "images/s": [f"{each['images_per_second']:,.1f}" for each in found],
        "MFU, of the measured peak": [f"{each['of_ceiling']:.1%}" for each in found],
        "MFU, of the data sheet": [
            f"{each['of_sheet']:.1%}" if each["of_sheet"] else "–" for each in found
        ],
        "memory, GB": [f"{each['peak_bytes'] / 1e9:,.1f}" for each in found],
        "compile, s": [f"{row['compile_seconds']:,.1f}" for row in rows],
        "ours is": ["", *(f"{each['ahead']:.2f}×" for each in found[1:])],
    }
    for name, cells in lines.items():
        table.add_row(name, *cells)
    return table
