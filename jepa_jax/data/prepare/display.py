"""How far a preparation is, and what came out: a bar on a terminal, plain lines elsewhere."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from jepa_jax import console
from jepa_jax.console import new_console, progress_bar

CLASSES = 10  # in the table; of the others only the number
BROKEN = 20  # images that are named
EVERY = 10.0  # seconds from a plain line to the next

_console = new_console()


def say(text: RenderableType) -> None:
    """A line, or a table."""
    console.say(_console, text)


class Bar:
    """Shows how many images are done; to be used as a context."""

    def __init__(self, total: int, start: int):
        self._total, self._start = total, start
        self._begun = self._told = time.monotonic()
        self._bar = progress_bar(_console, "images")
        self._task = self._bar.add_task("", total=total, completed=start, values="")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def update(self, done: int, broken: int) -> None:
        """So many images are done, and so many of them are broken."""
        now = time.monotonic()
        rate = (done - self._start) / (now - self._begun)
        values = f"{rate:,.0f} images/s" + (f"  {broken:,} broken" if broken else "")
        self._bar.update(self._task, completed=done, values=values)
        if not _console.is_terminal and (now - self._told > EVERY or done == self._total):
            self._told = now
            width = len(f"{self._total:,}")
            say(f"images {done:>{width},}/{self._total:,}  {values}")


def result_table(result: dict[str, Any]) -> Table:
    """Images by class and split, the most frequent classes first."""
    splits = result["splits"]
    table = Table(title="Images by class", title_justify="left")
    table.add_column("class")
    for name in splits:
        table.add_column(name, justify="right")

    def row(name: str, numbers: Iterable[int], **style) -> None:
        table.add_row(name, *(f"{number:,}" for number in numbers), **style)

    counts = {name: Counter(split["classes"]) for name, split in splits.items()}
    ranked = [name for name, _ in sum(counts.values(), Counter()).most_common()]
    shown, others = ranked[:CLASSES], ranked[CLASSES:]
    for name in shown:
        row(name, (count[name] for count in counts.values()))
    if others:
        row(f"{len(others):,} others", (sum(c[n] for n in others) for c in counts.values()))
    table.add_section()
    row("all", (sum(split["shards"]) for split in splits.values()))
    row("shards", (len(split["shards"]) for split in splits.values()))
    row("MB", (round(split["bytes"] / 1e6) for split in splits.values()))
    return table


def broken_list(broken: list[str]) -> str:
    """What was left out, a line each; of many, the first ones."""
    lines = [f"{len(broken):,} left out:", *broken[:BROKEN]]
    if len(broken) > BROKEN:
        lines.append("… (all of them stand in prepared.json)")
    return "\n  ".join(lines)


def config_lines(path: Path, splits: Iterable[str]) -> str:
    """What a recipe says to train on the data set at `path`, which ends with its version."""
    train, *others = splits
    lines = {
        "source": "tfds",
        "name": f"{path.parent.name}:{path.name}",
        "path": str(path.parent.parent),
        "train_split": train,
        "test_split": others[0] if others else "",
    }
    files = path / f"{path.parent.name}-{{split}}.array_record*"
    return "\n".join(
        [
            "To train on it, in a recipe:",
            *(f"  c.data.{key} = {json.dumps(value)}" for key, value in lines.items()),
            "or, to read the files without TFDS:",
            '  c.data.source = "array_record"',
            f"  c.data.path = {json.dumps(str(files))}",
        ]
    )
