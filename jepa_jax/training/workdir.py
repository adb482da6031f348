"""The folder of a run: its config, its metrics and its results."""

import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jepa_jax.atomic import write_text
from jepa_jax.errors import UserError

# What may change between two starts of one run: it has no say in what is learned.
FREE = (
    "train.log_every",
    "train.checkpoint",
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
        self._metrics = self.path / "metrics.jsonl"
        self._broken = self.path / "broken_images.jsonl"
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
        self._append(self._metrics, row)

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Adds values to the line of a step in metrics.jsonl."""
        rows = [row | values if row["step"] == step else row for row in self.rows()]
        self._write_rows(self._metrics, rows)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return _read_rows(self._metrics)

    def append_broken(self, row: dict[str, Any]) -> None:
        """One more image that could not be read, and the step that found it."""
        self._append(self._broken, row)

    def broken(self) -> list[dict[str, Any]]:
        """All images that could not be read."""
        return _read_rows(self._broken)

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, which will be made again."""
        for file in (self._metrics, self._broken):
            if file.exists():
                self._write_rows(file, [row for row in _read_rows(file) if row["step"] <= step])

    def results(self) -> dict[str, Any] | None:
        """What a finished run found, or None."""
        file = self.path / "results.json"
        return json.loads(file.read_text()) if file.exists() else None

    def finish(self, results: dict[str, Any]) -> None:
        """Stores what a finished run found."""
        self._write(self.path / "results.json", json.dumps(results, indent=2) + "\n")

    def _append(self, file: epath.Path, row: dict[str, Any]) -> None:
        if self._writes:
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")

    def _write_rows(self, file: epath.Path, rows: list[dict[str, Any]]) -> None:
        self._write(file, "".join(json.dumps(row) + "\n" for row in rows))

    def _write(self, file: epath.Path, text: str) -> None:
        if self._writes:
            write_text(file, text)


def _read_rows(file: epath.Path) -> list[dict[str, Any]]:
    """Its lines; one that a crash cut short is dropped."""
    rows = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _differences(old: Any, new: Any, key: str = ""):
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new
