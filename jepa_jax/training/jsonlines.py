"""A file of JSON objects, a line each, that survives a crash and a full disk."""

import json
from typing import Any

from etils import epath

from jepa_jax.atomic import write_text

Row = dict[str, Any]


class JsonLines:
    """Appends rows. What cannot be written now is kept and written with a later row."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._unwritten: list[Row] = []

    def append(self, row: Row) -> None:
        # The last line may have been cut short, and to append to gs://… is to overwrite.
        whole = bool(self._unwritten) or "://" in str(self._path)
        self._unwritten.append(row)
        try:
            if whole:
                self.rewrite(self.rows())
            else:
                with self._path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        except OSError:
            return
        self._unwritten = []

    def rows(self) -> list[Row]:
        """All of them, without a last line that a crash cut short."""
        rows = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows + [row for row in self._unwritten if row not in rows]

    def rewrite(self, rows: list[Row]) -> None:
        """Replaces the file, or leaves it as it is if that fails with an OSError."""
        if not rows and not self._path.exists():
            return
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._unwritten = []
