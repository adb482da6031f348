"""What `jepa_jax.benchmark.step` found, as a table, and beside an earlier run."""

import json
import os
import pathlib
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from jepa_jax.benchmark.step import OURS
from jepa_jax.errors import UserError


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds of a contender, and what follows from them.

    Returns:
      step_seconds, host_seconds, peak_bytes; images_per_second; and for ours mfu, the share of
      `peak` FLOP/s of all devices: by the data sheet, or where that does not say, measured.
    """
    found = {key: median(row, key) for key in ("step_seconds", "host_seconds", "peak_bytes")}
    found["images_per_second"] = row["images"][0] / found["step_seconds"]
    if "flops" in row:
        peak = row["sheet_peak"] or median(row, "measured_peak")
        found["peak"] = peak * row["devices"]
        found["mfu"] = row["flops"] / found["step_seconds"] / found["peak"]
    return found


def median(row: dict[str, Any], key: str) -> float:
    return statistics.median(each[key] for each in row["rounds"])


def report(rows: list[dict[str, Any]]) -> None:
    """A table of medians with the spread of the steps, and ours to each other, round by round."""
    console, table = Console(), Table("")
    for row in rows:
        table.add_column(row["contender"], justify="right")
    for name, cells in _lines(rows).items():
        table.add_row(name, *cells)
    console.print(table)
    ours = rows[0]
    for row in rows[1:]:
        ratios = [
            theirs["step_seconds"] / mine["step_seconds"]
            for mine, theirs in zip(ours["rounds"], row["rounds"], strict=True)
        ]
        console.print(
            f"{OURS}: {statistics.median(ratios):.2f}× the images/s of {row['contender']}"
            f" ({min(ratios):.2f}–{max(ratios):.2f})"
        )
    if problem := ours["input"].get("missing"):
        console.print(f"input wait not measured: {problem}", markup=False)


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Of the table: a cell for each row."""
    found = [summary(row) for row in rows]
    steps = [[each["step_seconds"] for each in row["rounds"]] for row in rows]
    ours, mine = rows[0], found[0]
    known = "data sheet" if ours["sheet_peak"] else "measured"
    wait = ours["input"].get("input_wait")
    rest = [""] * (len(rows) - 1)
    return {
        "images/s": [f"{each['images_per_second']:,.1f}" for each in found],
        "step, ms": [f"{1e3 * each['step_seconds']:,.1f}" for each in found],
        "lowest–highest": [f"{1e3 * min(each):,.1f}–{1e3 * max(each):,.1f}" for each in steps],
        "host's share of it, ms": list(map(_host, rows)),
        "compile, s": [f"{row['compile_seconds']:,.1f}" for row in rows],
        "start to first step, s": [f"{row['start_seconds']:,.1f}" for row in rows],
        "memory, MB": [f"{each['peak_bytes'] / 1e6:,.0f}" for each in found],
        "GFLOP a step": [f"{ours['flops'] / 1e9:.4g}", *rest],
        f"peak, GFLOP/s ({known})": [f"{mine['peak'] / 1e9:,.0f}", *rest],
        "MFU": [f"{mine['mfu']:.1%}", *rest],
        "input wait": ["–" if wait is None else f"{wait:.1%}", *rest],
    }


def _host(row: dict[str, Any]) -> str:
    """In ms; nothing on a CPU, which makes a step where it is asked for."""
    return "–" if row["device"] == "cpu" else f"{1e3 * median(row, 'host_seconds'):,.2f}"


def read(path: os.PathLike) -> list[dict[str, Any]]:
    """The rows of an earlier run.

    Raises:
      UserError: if the file is not one.
    """
    try:
        rows = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
        return [row for row in rows if row["rounds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--compare={path}: give what --out wrote ({error})") from error


def report_change(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """A table of ratios, now to before, for each contender that both runs have.

    Where one had coarser numbers than the other, it is told.
    """
    table = Table("now / before", "images/s", "memory", "compile", "start")
    earlier = {row["contender"]: row for row in before}
    for row in rows:
        old = earlier.get(row["contender"])
        if old is None:
            continue
        was, now = summary(old), summary(row)
        pairs = [
            *((was[key], now[key]) for key in ("images_per_second", "peak_bytes")),
            *((old[key], row[key]) for key in ("compile_seconds", "start_seconds")),
        ]
        table.add_row(row["contender"], *(f"{b / a:.3f}×" for a, b in pairs))
        coarser = [each.get("coarser") or "the usual" for each in (row, old)]
        if coarser[0] != coarser[1]:
            table.caption = "precision now: {}; before: {}".format(*coarser)
    Console().print(table)
