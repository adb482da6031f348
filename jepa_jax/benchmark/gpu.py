"""Recipes on one GPU: ours and PyTorch's steps, each at the batch with which it is fastest."""

import math
import os
import pathlib
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

import jepa_jax
from jepa_jax.benchmark.contender import WARM_UP, Contender, OutOfMemory
from jepa_jax.benchmark.step import (
    COARSER,
    OURS,
    STYLES,
    check_same,
    our_contender,
    peer_contender,
)
from jepa_jax.config import changed
from jepa_jax.errors import UserError
from jepa_jax.training.changes import differing
from jepa_jax.training.jsonlines import JsonLines

WORTH_IT = 1.02  # times as fast a doubled batch has to be, to be doubled once more
TRIED = ("train.batch_size", "train.accumulate", "model.remat")  # whatever the recipe says
REMATS = ("none", "dots")  # of ours: the larger batch, or nothing computed twice
COARSE = f"{OURS}, coarser"  # by `COARSER`

Row = dict[str, Any]


def measure(
    recipe: str,
    config: ConfigDict,
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    smallest: int,
    largest: int,
    steps: int,
    rounds: int,
    peer: bool,
    coarser: bool = False,
) -> list[Row]:
    """Looks for the best batch of each side, and lets them take turns, each with its own.

    Every trial and every turn is a process of its own. What was found is in `out` after each trial
    and each round: the same command goes on after it, and tries again what failed. Rows of fewer
    steps or rounds than are asked for are no answer.

    Args:
      recipe: its name.
      config: of which batch sizes are of no account.
      smallest: batch that is tried; then twice as many, up to `largest`, as `best_batch` says.
      steps: of a trial, and of a round at the end.
      peer: also the PyTorch step, plain and at its best.
      coarser: also our step with `COARSER`.

    Returns:
      Rows of two kinds, by "what": "trial", each with one round, "out_of_memory" or what "failed";
      and "best", of each side, with as many as are asked for. All have what `key_of` says,
      "contender" and "batch"; and what a contender says of itself. Those of other recipes and
      settings in `out` are among them.

    Raises:
      UserError: if none of ours runs, or on a CPU or another device than before; or if a peer does
        other work.
    """
    lines = JsonLines(epath.Path(out), what=str, recipe=str, contender=str)
    sides, shared = _sides(config, folder, peer, coarser), key_of(recipe, config)
    _replace(lines, failures(lines.rows(), recipe, config), [])  # it may be mended by now

    def key(side: str, batch: int) -> Row:
        return {"what": "trial", **shared, **_peer(side), "contender": side, "batch": batch}

    def run(side: str, batch: int) -> Row:
        asked = key(side, batch) | {"steps": steps}
        row = asked | _run(sides[side](batch), steps)
        problem = _wrong_device(row, lines.rows())
        if problem and _is_ours(row):
            raise UserError(problem)
        return asked | {"failed": problem} if problem else row

    def attempt(side: str, batch: int) -> Row:
        for row in lines.rows():
            if row.items() >= key(side, batch).items() and row.get("steps", 0) >= steps:
                return row
        row = run(side, batch)
        lines.append(row)
        return row

    while True:
        found = [best_batch(attempt, side, smallest, largest) for side in sides]
        ours = max((row for row in found if _is_ours(row)), key=speed, default=None)
        if ours is None:
            failed = filter(_is_ours, failures(lines.rows(), recipe, config))
            why = f"a batch of {smallest} does not fit: take --smallest=1"
            raise UserError(f"{recipe}: {next((row['failed'] for row in failed), why)}")
        chosen = [ours, *(row for row in found if row and not _is_ours(row))]
        before = best_of(lines.rows(), recipe, config)
        best = [row for row in before if row.get("steps", 0) >= steps]
        enough = [row for row in best if len(row["rounds"]) >= rounds]
        if set(map(_at, chosen)) <= set(map(_at, enough)):
            return lines.rows()
        if set(map(_at, chosen)) != set(map(_at, best)):
            best = [row | {"what": "best", "steps": steps, "rounds": []} for row in chosen]
        for other in best[1:]:
            check_same(best[0], other, ("dtype", "devices", "parameters"))
        after = []  # one more round, in turns, so that all share a machine's moods
        for row in best:
            turn = run(row["contender"], row["batch"])
            if "rounds" not in turn:  # it just fitted: the batch is chosen anew
                tried = key(row["contender"], row["batch"]).items()
                _replace(lines, [each for each in lines.rows() if each.items() >= tried], [turn])
                break
            after.append(row | {"steps": steps, "rounds": row["rounds"] + turn["rounds"]})
        else:
            _replace(lines, before, after)


def key_of(recipe: str, config: ConfigDict) -> Row:
    """What rows of the same recipe, settings and versions have in common."""
    setting = {name: value for name, value in differing(config).items() if name not in TRIED}
    versions = {"jepa_jax": jepa_jax.__version__, "jax": jax.__version__}
    return {"recipe": recipe, "setting": setting, "versions": versions}


def best_of(rows: list[Row], recipe: str, config: ConfigDict) -> list[Row]:
    """The rows "best" of a recipe, ours first."""
    key = {"what": "best", **key_of(recipe, config)}
    return [row for row in rows if row.items() >= key.items()]


def failures(rows: list[Row], recipe: str, config: ConfigDict) -> list[Row]:
    """The trials of a recipe that failed, not for want of memory."""
    key = {"what": "trial", **key_of(recipe, config)}
    return [row for row in rows if row.items() >= key.items() and "failed" in row]


def best_batch(
    attempt: Callable[[str, int], Row], side: str, smallest: int, largest: int
) -> Row | None:
    """The fastest trial of a side; None if none fits.

    The batch is doubled until memory ends, one fails or no more is gained: each trial compiles a
    step.
    """
    best, batch = None, smallest
    while batch <= largest:
        row = attempt(side, batch)
        if "rounds" not in row:
            break
        gain = speed(row) / speed(best) if best else math.inf
        best = row if gain > 1 else best
        if gain < WORTH_IT:
            break
        batch *= 2
    return best


def speed(row: Row) -> float:
    """Images/s of a trial."""
    return row["batch"] / row["rounds"][0]["step_seconds"]


def _at(row: Row) -> tuple[str, int, str | None]:
    return row["contender"], row["batch"], row.get("torch")


def _peer(side: str) -> Row:
    """The version of torch, for a side that runs in it; where there is none, the side tells."""
    if not side.startswith("torch "):
        return {}
    return {"torch": next((each.version for each in metadata.distributions(name="torch")), None)}


def _is_ours(row: Row | None) -> bool:
    return row is not None and row["contender"] in map(_name, REMATS)


def _sides(
    config: ConfigDict, folder: pathlib.Path, peer: bool, coarser: bool
) -> dict[str, Callable[[int], Contender]]:
    """By name: what makes a contender for a batch."""

    def sized(batch: int, **changes: str) -> ConfigDict:
        return changed(config, {"train.batch_size": batch, "train.accumulate": 1, **changes})

    environment = one_gpu()

    def ours(name: str, remat: str, **changes: str) -> Callable[[int], Contender]:
        def make(batch: int) -> Contender:
            own = sized(batch, **{"model.remat": remat}, **changes)
            return our_contender(name, own, folder, environment=environment)

        return make

    def theirs(style: str) -> Callable[[int], Contender]:
        return lambda batch: peer_contender(style, sized(batch), folder, environment)

    sides = {_name(remat): ours(_name(remat), remat) for remat in REMATS}
    if coarser:
        sides[COARSE] = ours(COARSE, "none", **COARSER)
    return sides | {f"torch {style}": theirs(style) for style in STYLES if peer}


def one_gpu() -> dict[str, str]:
    """Variables of a process for one GPU, the first of those that are to be used, and all of it."""
    first, *_ = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
    return {"CUDA_VISIBLE_DEVICES": first, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}


def _name(remat: str) -> str:
    return f"{OURS}, remat={remat}"


def _run(contender: Contender, steps: int) -> Row:
    """What it is about, with one round; on a CPU, which is not meant, without; or why not."""
    try:
        about = contender.start()
        if about["device"] == "cpu":
            return about
        contender.ask("steps", WARM_UP)
        return about | {"rounds": [contender.ask("steps", steps)]}
    except OutOfMemory:
        return {"out_of_memory": True}
    except UserError as error:
        return {"failed": str(error)}
    finally:
        contender.stop()


def _replace(lines: JsonLines, old: list[Row], new: list[Row]) -> None:
    lines.change(lambda rows: [*(row for row in rows if row not in old), *new])


def _wrong_device(row: Row, earlier: list[Row]) -> str | None:
    """What is wrong with a row that is of a CPU, or of another device than those before."""
    if row.get("device") == "cpu":
        return (
            f"{row['contender']} sees no GPU: JAX needs pip install -e '.[cuda]', torch a build"
            " with CUDA, and CUDA_VISIBLE_DEVICES must not hide it"
        )
    for other in earlier:
        if {"device"} <= row.keys() & other.keys() and row["device"] != other["device"]:
            return (
                f"{row['contender']} runs on {row['device']}, {other['contender']} ran on"
                f" {other['device']}: take another --out for another device"
            )
    return None
