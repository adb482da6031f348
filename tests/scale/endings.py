"""Compares what two runs of one recipe have come to, bit for bit."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax.training import loop
from jepa_jax.training.checkpoints import with_sharding
from jepa_jax.training.jsonlines import JsonLines

WITHIN = 1e-5  # of losses, where the number of processes changed
Leaves = list[tuple[Any, np.ndarray]]  # each with its path
RATES = ("images_per_second", "input_wait")  # in metrics.jsonl; all else is the same every time


def differences(config: ConfigDict, expected: pathlib.Path, found: pathlib.Path) -> list[str]:
    """A line for all that the ends of two runs do not have in common: none if they are equal.

    Compares parameters, target and optimizer state, the rows of metrics.jsonl, of which none may be
    missing or doubled, and results.json.

    Args:
      config: of both runs, with `train.log_every` = 1.
      expected: the workdir of a run.
      found: that of the other.
    """
    lines = [
        *of_states(*(final_state(config, path) for path in (expected, found))),
        *of_metrics(metrics(expected), metrics(found)),
    ]
    one, two = (json.loads((path / "results.json").read_text()) for path in (expected, found))
    if one != two:
        lines.append(f"results.json: {two} and not {one}")
    return lines


def loss_differences(expected: pathlib.Path, found: pathlib.Path) -> list[str]:
    """A line for each loss that is off by more than WITHIN, or is missing or doubled."""
    one, two = (
        [{name: row[name] for name in ("step", "loss")} for row in metrics(workdir)]
        for workdir in (expected, found)
    )
    return of_metrics(one, two, WITHIN)


def of_states(expected: Leaves, found: Leaves) -> list[str]:
    """A line for each leaf that differs in a bit."""
    lines = []
    for (path, a), (_, b) in zip(expected, found, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            off = np.max(np.abs(np.float64(a) - np.float64(b)))
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            lines.append(f"{name}: off by {off:g}")
    return lines


def of_metrics(expected: list[dict], found: list[dict], within: float = 0.0) -> list[str]:
    """A line for each number that differs, and one for steps that are missing or doubled.

    Args:
      within: what a number may be off by.
    """
    lines = []
    steps = [row["step"] for row in found]
    if steps != [*range(1, 1 + len(expected))]:
        lines.append(f"metrics.jsonl: missing or doubled steps in {steps}")
    for a, b in zip(expected, found, strict=False):
        for name in sorted((a.keys() | b.keys()) - set(RATES)):
            one, two = a.get(name), b.get(name)
            if one != two and (None in (one, two) or not abs(one - two) <= within):
                lines.append(f"step {a['step']}: {name} is {two} and not {one}")
    return lines


def final_state(config: ConfigDict, workdir: pathlib.Path) -> Leaves:
    """The leaves of a finished run's last state."""
    config = config.copy_and_resolve_references()
    config.mesh.fsdp = 1  # whatever devices there are here
    run = loop.prepare(config, str(workdir))
    restored = run.checkpoints.restore(with_sharding(run.shapes, run.sharding))
    assert restored.step == run.total, restored.step
    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    return [(path, np.asarray(leaf)) for path, leaf in leaves]


def metrics(workdir: pathlib.Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return JsonLines(workdir / "metrics.jsonl", step=int).rows()
