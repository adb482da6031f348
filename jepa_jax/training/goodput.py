"""Where a run's time went, over all its starts: a pure function of events.jsonl, and its table."""

import collections
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from etils import epath
from rich.table import Table

from jepa_jax.console import clock, new_console, say
from jepa_jax.errors import UserError
from jepa_jax.training.jsonlines import JsonLines

# What time may go to, and in which words it is told.
LINES = {
    "step": "training",
    "data_wait": "waiting for images",
    "checkpoint": "saving, as far as training waited for it",
    "evaluation": "evaluation and pictures",
    "diagnosis": "the doctor's numbers",
    "start": "first start: imports, data, parameters",
    "compile": "compilation, with the first step",
    "down": "between a process and the next",
    "restart": "later starts, up to the first step",
    "repeated": "steps done again: they were not saved",
    "roll_back": "roll-backs, with the steps that they undid",
}


class Account(NamedTuple):
    """Where the time went from the first start to the last event."""

    seconds: dict[str, float]  # by the keys of LINES
    step: int  # the last one that counts
    repeated: int  # steps that were done again after a restart
    starts: int
    roll_backs: int
    at: float  # time of the last event
    last: str  # what it was

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the time that went into steps that count."""
        return self.seconds["step"] / self.total if self.total else 0.0


class _Steps:
    """The steps that count, as intervals between events that tell the number of the last one."""

    def __init__(self):
        self._intervals: list[tuple[int, int, float]] = []  # after a step, to a step, seconds
        self.last = 0
        self.open = 0.0  # seconds of steps after the last

    def reach(self, step: int) -> None:
        if step > self.last:
            self._intervals.append((self.last, step, self.open))
            self.last, self.open = step, 0.0

    def undo(self, step: int) -> tuple[float, int]:
        """Takes back the later steps: how many seconds, and how many steps are known."""
        self.reach(step)  # it may have been saved, and its process killed before it said so
        seconds, count = self.open, 0
        self.open = 0.0
        while self.last > step:
            first, last, taken = self._intervals.pop()
            again = last - max(first, step)
            seconds += taken * again / (last - first)
            count += again
            self.last = last - again
            if first < step:
                self._intervals.append((first, step, taken * (step - first) / (last - first)))
        return seconds, count

    def seconds(self) -> float:
        return self.open + sum(taken for *_, taken in self._intervals)


def goodput(events: Iterable[Mapping[str, Any]]) -> Account | None:
    """The account of a run from its events; None if it was never started.

    What a process did after its last event before it was killed counts as "down".
    """
    seconds = collections.Counter(dict.fromkeys(LINES, 0.0))
    steps, repeated, starts, roll_backs = _Steps(), 0, 0, 0
    restarting, at, name = False, 0.0, ""
    for event in events:
        if not tells_of_time(event) or not (starts or event["event"] == "start"):
            continue
        before, at = at, event["time"]
        name, spent = event["event"], event["seconds"]
        if name == "start":
            starts += 1
            if restarting := starts > 1:
                seconds["down"] += max(0.0, at - sum(spent.values()) - before)
        for what, value in spent.items():
            if what == "step":
                steps.open += value
            elif restarting and what in ("start", "compile"):
                seconds["restart"] += value
            else:
                seconds[what] += value
        if name == "restore":
            undone, count = steps.undo(event["step"])
            seconds["repeated"] += undone
            repeated += count
        elif name == "roll_back":
            roll_backs += 1
            seconds["roll_back"] += steps.undo(event["step"])[0]
        elif name == "compile":
            restarting = False
        elif "step" in event:
            steps.reach(event["step"])
    if not starts:
        return None
    seconds["step"] = steps.seconds()
    return Account(dict(seconds), steps.last, repeated, starts, roll_backs, at, name)


def tells_of_time(event: Mapping[str, Any]) -> bool:
    """Whether it is an event of the ledger, and not damaged."""
    seconds, step = event.get("seconds"), event.get("step", 0)
    if not isinstance(seconds, dict) or type(step) is not int:
        return False
    numbers = [event.get("time"), *seconds.values()]
    if not all(type(x) in (int, float) and 0 <= x < math.inf for x in numbers):
        return False
    return "step" in event or event["event"] not in ("restore", "roll_back")


def account_table(account: Account) -> Table:
    """The account, as a table to print."""
    table = Table(
        title=f"{account.goodput:.1%} of the time went into the {account.step:,} steps that count",
        title_justify="left",
    )
    table.add_column("time for")
    table.add_column("h:mm:ss", justify="right")
    table.add_column("%", justify="right")
    counts = {
        "restart": account.starts - 1,
        "repeated": account.repeated,
        "roll_back": account.roll_backs,
    }
    for name, seconds in account.seconds.items():
        if seconds:
            count = f" ({counts[name]:,})" if counts.get(name) else ""
            words = LINES.get(name, name) + count
            table.add_row(words, clock(seconds), f"{100 * seconds / account.total:.1f}")
    table.add_section()
    table.add_row("in all", clock(account.total), "100.0")
    return table


def inspect_run(path: epath.PathLike) -> None:
    """Prints the account of the run in a folder, which may be under way.

    Raises:
      UserError: if there is none.
    """
    account = goodput(JsonLines(epath.Path(path).expanduser() / "events.jsonl", event=str).rows())
    if account is None:
        raise UserError(f"{path} holds no events.jsonl with a start: give the --workdir of a run")
    console = new_console()
    say(console, account_table(account))
    ago = clock(time.time() - account.at)
    say(console, f"last event: {account.last!r}, {ago} ago; a run that goes on has one a minute")
