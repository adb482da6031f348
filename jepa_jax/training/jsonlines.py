"""A file of JSON objects, a line each, that survives a crash, a full disk and damage."""

import functools
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from jepa_jax.atomic import write_text
from jepa_jax.training.storage import is_bucket, is_refusal

Row = dict[str, Any]
Change = Callable[[list[Row]], list[Row]]


class JsonLines:
    """Rows that are added or changed. What cannot be written now is kept and written later.

    Threads may share it.

    Args:
      fields: what each row has, and of which type; a line without is damaged, and left out.
    """

    def __init__(self, path: epath.Path, **fields: type):
        self._path, self._fields = path, fields
        self._lock = threading.RLock()
        # What is still to be done to the rows in the file. At first it is written anew: a crash may
        # have cut its last line short, which is left out.
        self._pending: list[Change] = [list]

    def append(self, row: Row) -> None:
        with self._lock:
            # To append to gs://… is to overwrite.
            if not self._pending and not is_bucket(self._path):
                try:
                    with self._path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    return
                except Exception as error:
                    if not is_refusal(error):
                        raise
            self.change(functools.partial(_with_last, row))

    def change(self, change: Change) -> None:
        """Puts what `change` makes of the rows in their place."""
        with self._lock:
            self._pending.append(change)
            self.flush()

    def flush(self) -> bool:
        """Whether all is written now."""
        with self._lock:
            if self._pending:
                try:
                    rows = self.rows()
                    if rows or self._path.exists():
                        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    return False
                self._pending = []
            return True

    def rows(self) -> list[Row]:
        """All of them, as they are meant to be, without lines that are cut short or damaged."""
        rows = []
        if self._path.exists():
            lines = self._path.read_bytes().splitlines()
            rows = [row for line in lines if (row := parsed(line, self._fields)) is not None]
        for change in list(self._pending):
            rows = change(rows)
        return rows


def _with_last(row: Row, rows: list[Row]) -> list[Row]:
    """The line may have been written, though that was answered with an error."""
    return rows if rows[-1:] == [row] else [*rows, row]


def parsed(text: bytes, fields: Mapping[str, type]) -> Row | None:
    """A JSON object that has these fields, of these types; None if it is damaged."""
    try:
        row = json.loads(text)
    except ValueError:  # of the encoding or of the JSON
        return None
    if not isinstance(row, dict):
        return None
    return row if all(type(row.get(name)) is kind for name, kind in fields.items()) else None
