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
    lines = []
    one, two = (final_state(config, path) for path in (expected, found))
    for (path, a), (_, b) in zip(one, two, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            off = np.max(np.abs(np.float64(a) - np.float64(b)))
            lines.append(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')}: off by {off:g}"
            )
    one, two = metrics(expected), metrics(found)
    steps = [row["step"] for row in two]
    if steps != [*range(1, 1 + len(one))]:
        lines.append(f"metrics.jsonl: missing or doubled steps in {steps}")
    for a, b in zip(one, two, strict=False):
        for name in sorted((a.keys() | b.keys()) - set(RATES)):
            if a.get(name) != b.get(name):
                lines.append(f"step {a['step']}: {name} is {b.get(name)} and not {a.get(name)}")
    one, two = (json.loads((path / "results.json").read_text()) for path in (expected, found))
    if one != two:
        lines.append(f"results.json: {two} and not {one}")
    return lines


def final_state(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[Any, np.ndarray]]:
    """The leaves of a finished run's last state, each with its path."""
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
