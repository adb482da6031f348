"""What a run does with its time: each moment is counted as one thing, and told in events.jsonl."""

import collections
import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

PULSE = 60.0  # seconds without an event, after which one says that the run is alive


class Ledger:
    """Counts seconds by what the run is doing. A context, which ends with the event "end".

    Each event says what the seconds since the one before it went to, so that they add up to the
    run's time, and what a kill leaves uncounted is never more than a minute. Begins with "start".

    Args:
      record: is called with the name of an event and its fields.
      began: when the process did, as `time.time()` has it; None: now.
    """

    def __init__(self, record: Callable[..., Any], began: float | None = None):
        self._record = record
        self._counted = time.monotonic()
        if began is not None:
            self._counted -= max(0.0, time.time() - began)
        self._seconds = collections.Counter()
        self._lock = threading.Lock()
        self._recorded = self._counted
        self._ended = threading.Event()
        self.doing = "start"
        self.moves = 0  # grows whenever the run gets on with something

    def __enter__(self):
        threading.Thread(target=self._pulse, daemon=True).start()
        return self

    def __exit__(self, kind, *_):
        self._ended.set()
        self.record("end", **({"error": kind.__name__} if kind else {}))

    @contextlib.contextmanager
    def __call__(self, doing: str, **fields: Any):
        """Around what is no step; an event of that name tells how long it took."""
        before = self.enter(doing)
        yield
        self.record(doing, **fields)
        self.enter(before)

    def enter(self, doing: str, was: str | None = None) -> str:
        """Time counts as this from now on.

        Args:
          was: what it was in truth since the last call; None: what that call said.

        Returns:
          What it counted as so far.
        """
        with self._lock:
            before = self.doing
            self._count(was or before)
            self.doing = doing
            self.moves += 1
        return before

    def record(self, event: str, **fields: Any) -> None:
        """An event now."""
        self.moves += 1
        self._tell(event, fields)

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        with self._lock:
            self._count(self.doing)
            seconds = {name: math.floor(1e3 * x) / 1e3 for name, x in self._seconds.items()}
            self._seconds.subtract(seconds)  # what is lost by rounding counts the next time
            self._recorded = self._counted
            self._record(event, **fields, seconds={name: x for name, x in seconds.items() if x})

    def _count(self, doing: str) -> None:
        now = time.monotonic()
        self._seconds[doing] += now - self._counted
        self._counted = now

    def _pulse(self) -> None:
        while not self._ended.wait(PULSE / 4):
            if time.monotonic() - self._recorded >= PULSE:
                self._tell("alive", {"doing": self.doing})
