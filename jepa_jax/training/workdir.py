"""The folder of a run: its config, its metrics and its results."""

import json
import time
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jepa_jax.atomic import write_text
from jepa_jax.errors import UserError
from jepa_jax.training.jsonlines import JsonLines

# What may change between two starts of one run: it has no say in what is learned.
FREE = (
    "train.log_every",
    "train.checkpoint",
    "guard.",
    "probe.",
    "mesh.",
    "data.threads",
    "data.workers",
    "data.broken_share",
    "data.test_split",
    "data.eval_crop",
)


class Workdir:
    """Reads and writes a run's files. `metrics.jsonl` never holds a step twice.

    Args:
      writes: false for all but one of the processes that share the folder.
    """

    def __init__(self, path: epath.PathLike, writes: bool = True):
        self.path = epath.Path(path).expanduser()
        if not str(path):
            raise UserError("--workdir is empty: give a folder")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={path} is a file: give a folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={path} cannot be made: {error.strerror}") from error
        self._metrics = JsonLines(self.path / "metrics.jsonl")
        self._events = JsonLines(self.path / "events.jsonl")
        self._broken = JsonLines(self.path / "broken_images.jsonl")
        self._writes = writes

    def claim(self, config: ConfigDict) -> None:
        """Stores the config of a new run, or compares it with the stored one.

        Raises:
          UserError: naming what differs, if it would make this another run.
        """
        file = self.path / "config.json"
        if file.exists():
            try:
                stored = json.loads(file.read_text())
            except json.JSONDecodeError as error:
                raise UserError(f"{file} is damaged: delete it to use this config") from error
            wanted = json.loads(config.to_json())
            changed = [
                f"{key}: {old} -> {new}"
                for key, old, new in _differences(stored, wanted)
                if not key.startswith(FREE)
            ]
            if changed:
                raise UserError(
                    f"{self.path} holds a run of another config ({'; '.join(changed)}):"
                    " take another --workdir, or the stored values"
                )
        self._write(file, config.to_json(indent=2) + "\n")

    def append(self, row: dict[str, Any]) -> None:
        """One more line of metrics.jsonl."""
        if self._writes:
            self._metrics.append(row)

    def record(self, event: str, **fields: Any) -> None:
        """One more line of events.jsonl."""
        if self._writes:
            self._events.append({"time": round(time.time(), 3), "event": event, **fields})

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Adds values to the line of a step in metrics.jsonl."""
        if self._writes:
            rows = [row | values if row["step"] == step else row for row in self.rows()]
            self._metrics.rewrite(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a crash cut short is dropped."""
        return self._metrics.rows()

    def append_broken(self, row: dict[str, Any]) -> None:
        """One more image that could not be read, and the step whose batch it was asked for."""
        if self._writes:
            self._broken.append(row)

    def broken(self) -> list[dict[str, Any]]:
        """All images that could not be read."""
        return self._broken.rows()

    def forget_after(self, step: int, batch: int) -> None:
        """Drops the metrics of later steps and the broken images of later batches."""
        if self._writes:
            for lines, last in ((self._metrics, step), (self._broken, batch)):
                lines.rewrite([row for row in lines.rows() if row["step"] <= last])

    def results(self) -> dict[str, Any] | None:
        """What a finished run found, or None."""
        file = self.path / "results.json"
        return json.loads(file.read_text()) if file.exists() else None

    def finish(self, results: dict[str, Any]) -> None:
        """Stores what a finished run found."""
        self._write(self.path / "results.json", json.dumps(results, indent=2) + "\n")

    def _write(self, file: epath.Path, text: str) -> None:
        if self._writes:
            write_text(file, text)


def _differences(old: Any, new: Any, key: str = ""):
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new
