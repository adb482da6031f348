"""What an evaluation found: tables, and the file that it goes on from."""

import json
import time
from collections.abc import Sequence
from typing import Any

from etils import epath
from rich.table import Table

from jepa_jax.atomic import write_text
from jepa_jax.errors import UserError
from jepa_jax.training.workdir import storage_of


class ResultsFile:
    """Results by key, in a JSON file that is whole at any time.

    Raises:
      UserError: if there is one that is damaged.
    """

    def __init__(self, file: epath.Path):
        self._file = file
        self._results = self._read()

    def get(self, key: str) -> dict[str, Any] | None:
        """What was found under this key, or None."""
        return self._results.get(key)

    def put(self, key: str, result: dict[str, Any], writes: bool) -> dict[str, Any]:
        """Adds a result, and writes the file if this is the process that does."""
        found = {"key": key, **result, "time": round(time.time())}
        if writes:
            self._results |= self._read()  # another command may have put something there meanwhile
        self._results[key] = found
        if writes:
            with storage_of(self._file):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                content = {"results": list(self._results.values())}
                write_text(self._file, json.dumps(content, indent=1) + "\n")
        return found

    def _read(self) -> dict[str, dict[str, Any]]:
        with storage_of(self._file, "read"):
            text = self._file.read_text() if self._file.exists() else '{"results": []}'
        try:
            return {each["key"]: each for each in json.loads(text)["results"]}
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self._file} is damaged: delete it to evaluate anew") from None


def result_table(found: dict[str, Any]) -> Table:
    """All settings of one protocol."""
    columns = list(dict.fromkeys(name for row in found["rows"].values() for name in row))
    title = f"{found['checkpoint']}, {found['protocol']} on {found['data']}: {found['metric']} (%)"
    paper = "; ".join(f"{name} {number}" for name, number in found["paper"].items())
    table = _table(title, f"In the paper: {paper}." if paper else None)
    table.add_column("setting")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in found["rows"].items():
        table.add_row(name, *(_percent(row.get(column)) for column in columns))
    return table


def summary_table(all_found: Sequence[dict[str, Any]]) -> Table:
    """The best of each protocol, a backbone a line, and the paper's number of the same encoder."""
    protocols = list(dict.fromkeys(found["protocol"] for found in all_found))
    table = _table(f"Results on {', '.join(dict.fromkeys(f['data'] for f in all_found))} (%)")
    table.add_column("features", overflow="fold")
    for protocol in protocols:
        table.add_column(protocol, justify="right", overflow="fold")
    with_paper = [
        protocol
        for protocol in protocols
        if any(f["protocol"] == protocol and f["encoder"] in f["paper"] for f in all_found)
    ]
    for protocol in with_paper:
        table.add_column(f"{protocol}, paper", justify="right", overflow="fold")
    for name in dict.fromkeys(found["checkpoint"] for found in all_found):
        mine = {found["protocol"]: found for found in all_found if found["checkpoint"] == name}
        best = [_percent(mine[each]["best"] if each in mine else None) for each in protocols]
        theirs = [mine[each]["paper"].get(mine[each]["encoder"], "") for each in with_paper]
        table.add_row(name, *best, *map(str, theirs))
    return table


def _table(title: str, caption: str | None = None) -> Table:
    return Table(title=title, caption=caption, title_justify="left", caption_justify="left")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
