"""The folder of a run: its config, its metrics and its results."""

import contextlib
import functools
import json
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from jepa_jax import lock
from jepa_jax.atomic import write_text
from jepa_jax.errors import StorageError, UserError
from jepa_jax.training.changes import DATA, Change
from jepa_jax.training.jsonlines import JsonLines, parsed
from jepa_jax.training.storage import is_bucket, is_refusal, summary

PATIENCE = 120.0  # seconds for another process in the same folder to end
GOES_ON = "the same command goes on when it can be"


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
            raise StorageError(f"--workdir={path} cannot be made: {error.strerror}") from error
        self._metrics = JsonLines(self.path / "metrics.jsonl", step=int)
        self._events = JsonLines(self.path / "events.jsonl", event=str)
        self._broken = JsonLines(
            self.path / "broken_images.jsonl", step=int, index=int, problem=str
        )
        self._writes = writes

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here at the same time; ends with this one.

        There is none in a bucket, and on some network drives. Others keep that of a host that died
        for a while: hence the patience.

        Raises:
          UserError: if another process has it, and does not end soon.
        """
        with contextlib.ExitStack() as held:
            if self._writes and not is_bucket(self.path):
                with contextlib.suppress(OSError):  # which is told soon enough
                    file = held.enter_context(open(self.path / "lock", "a"))
                    lock.take(file, f"training in {self.path}", PATIENCE)
            yield

    def config(self) -> dict[str, Any] | None:
        """The config that the run was last started with, or None if there is no run.

        Raises:
          UserError: if it cannot be read.
        """
        return self._read("config.json", "delete it to use this config")

    def claim(self, config: ConfigDict, changes: Sequence[Change], force: Collection[str]) -> None:
        """Takes note of a start: what changed since the last one, and the config.

        Of images that changed no broken ones are known.
        """
        for change in changes:
            self.record("change", **change._asdict(), forced=change.name in force)
        if self._writes and any(change.name == DATA for change in changes):
            self._broken.change(lambda rows: [])
        self._write(self.path / "config.json", config.to_json(indent=2) + "\n")

    def forced(self) -> set[str]:
        """The names of the changes that were forced so far."""
        changes = [row for row in self.events() if row["event"] == "change"]
        return {row.get("name") for row in changes if row.get("forced")}

    def append(self, row: dict[str, Any]) -> None:
        """One more line of metrics.jsonl."""
        if self._writes:
            self._metrics.append(row)

    def record(self, event: str, **fields: Any) -> None:
        """One more line of events.jsonl."""
        if self._writes:
            self._events.append({"time": round(time.time(), 3), "event": event, **fields})

    def events(self) -> list[dict[str, Any]]:
        """The lines of events.jsonl."""
        return self._events.rows()

    def amend(self, step: int, values: dict[str, Any]) -> None:
        """Adds values to the line of a step in metrics.jsonl."""
        if self._writes:
            self._metrics.change(
                lambda rows: [row | values if row["step"] == step else row for row in rows]
            )

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
                lines.change(functools.partial(_up_to, last))

    def results(self) -> dict[str, Any] | None:
        """What a finished run found, or None.

        Raises:
          UserError: if it cannot be read.
        """
        return self._read("results.json", "delete it to find them anew", step=int, accuracy=dict)

    def finish(self, results: dict[str, Any]) -> None:
        """Stores what a finished run found.

        Raises:
          StorageError: if that cannot be written, or something before it could not.
        """
        files = (self._metrics, self._events, self._broken)
        if self._writes and not all(lines.flush() for lines in files):
            raise StorageError(f"{self.path} cannot be written: {GOES_ON}")
        self._write(self.path / "results.json", json.dumps(results, indent=2) + "\n")

    def _read(self, name: str, remedy: str, **fields: type) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        with storage_of(file, "read"):
            found = parsed(file.read_bytes(), fields)
        if found is None:
            raise UserError(f"{file} is damaged: {remedy}")
        return found

    def _write(self, file: epath.Path, text: str) -> None:
        if self._writes:
            with storage_of(file):
                write_text(file, text)


@contextlib.contextmanager
def storage_of(what: Any, done: str = "written"):
    """Around what reads or writes: what storage raises in it becomes a StorageError."""
    try:
        yield
    except Exception as error:
        if not is_refusal(error):
            raise
        raise StorageError(f"{what} cannot be {done} ({summary(error)}): {GOES_ON}") from error


def _up_to(last: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["step"] <= last]
