"""A file of JSON objects, a line each, that survives a crash, a full disk and damage."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from jepa_jax.atomic import write_text

Row = dict[str, Any]


class JsonLines:
    """Appends rows. What cannot be written now is kept and written with a later row.

    Args:
      fields: what each row has, and of which type; a line without is damaged, and left out.
    """

    def __init__(self, path: epath.Path, **fields: type):
        self._path, self._fields = path, fields
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
        """All of them, without lines that a crash cut short or that are damaged."""
        rows = []
        if self._path.exists():
            lines = self._path.read_bytes().splitlines()
            rows = [row for line in lines if (row := parsed(line, self._fields)) is not None]
        return rows + [row for row in self._unwritten if row not in rows]

    def rewrite(self, rows: list[Row]) -> None:
        """Replaces the file, or leaves it as it is if that fails with an OSError."""
        if not rows and not self._path.exists():
            return
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._unwritten = []


def parsed(text: bytes, fields: Mapping[str, type]) -> Row | None:
    """A JSON object that has these fields, of these types; None if it is damaged."""
    try:
        row = json.loads(text)
    except ValueError:  # of the encoding or of the JSON
        return None
    if not isinstance(row, dict):
        return None
    return row if all(type(row.get(name)) is kind for name, kind in fields.items()) else None
