"""What is kept of a run of a study: a small JSON file, from which tables and figures are made."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

import jepa_jax
from jepa_jax.atomic import write_text
from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from jepa_jax.study.plan import Planned
from jepa_jax.training.changes import differences, differing
from jepa_jax.training.goodput import goodput
from jepa_jax.training.jsonlines import parsed
from jepa_jax.training.workdir import Workdir, storage_of

POINTS = 40  # of a curve, at most
CURVES = ("step", "loss", "rank", "over_mean", "knn", "linear")
# What a run that goes on may change, but what it is measured by. A run knows its images by
# themselves; a record has only where they lay.
MEASURE = (
    *("data.source", "data.path", "data.name", "data.mixture"),
    *("data.image_key", "data.label_key"),
    *("train.epochs", "probe.train_images", "probe.test_images", "probe.neighbours"),
    *("data.train_split", "data.test_split", "data.eval_crop"),
)

Record = dict[str, Any]


def record_of(planned: Planned, folder: epath.Path) -> Record:
    """Of a finished run: its setting, curve, accuracies and cost."""
    run = Workdir(folder, writes=False)
    account = goodput(run.events())
    rows = run.rows()
    rates = [row["images_per_second"] for row in rows if row["images_per_second"]]
    return _setting(planned) | {
        "accuracy": run.results()["accuracy"],
        "curve": curve(rows),
        "seconds": round(account.total - account.seconds["down"]),
        "images_per_second": round(statistics.median(rates)) if rates else None,
        "hardware": f"{jax.device_count()} {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        "versions": {"jepa_jax": jepa_jax.__version__, "jax": jax.__version__},
    }


def failure_of(planned: Planned, problem: str) -> Record:
    """Of a run that could not be brought to its end, which is a result too."""
    return _setting(planned) | {"failed": problem}


def _setting(planned: Planned) -> Record:
    return {
        "factor": planned.factor,
        "variant": planned.variant,
        "seed": planned.seed,
        "changes": dict(planned.changes),
        "config": differing(planned.config),
    }


def curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Some rows of metrics.jsonl, evenly, and all that have probes; four digits."""
    stride = max(1, -(-len(rows) // POINTS))
    kept = [row for i, row in enumerate(rows) if (len(rows) - 1 - i) % stride == 0 or "knn" in row]
    return [
        {name: _short(row[name]) for name in CURVES if row.get(name) is not None} for row in kept
    ]


def _short(value: float) -> float:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write(folder: epath.Path, name: str, record: Record) -> None:
    """Stores a record, whole or not at all."""
    with storage_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.json", json.dumps(record, ensure_ascii=False) + "\n")


def read(file: epath.Path, planned: Planned) -> Record:
    """The record of a run.

    Raises:
      UserError: if it is none, or that of a run with another setting.
    """
    with storage_of(file, "read"):
        found = parsed(file.read_bytes(), {"variant": str, "config": dict})
    if found is None:
        raise UserError(f"{file} is no record of a study, or damaged: delete it to run it again")
    usual = {
        change.name: change.new for change in differences({}, json.loads(defaults().to_json()))
    }
    for change in differences(usual | found["config"], usual | differing(planned.config)):
        if not change.free or change.name in MEASURE:
            raise UserError(
                f"{file} is of another setting ({change}): take another --out, or --results"
            )
    return found
