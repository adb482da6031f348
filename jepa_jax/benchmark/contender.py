"""Processes that take turns: each runs training steps when asked, and tells what they took.

Processes, so that none has another's memory, threads or compiled programs. They talk in lines of
JSON: what the process is about when it is ready, then a line for each round.
"""

import json
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from jepa_jax.errors import UserError

OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|ALLOC_FAILED|out of memory|can't allocate memory", re.IGNORECASE
)
KILLED = "killed, as the kernel does where memory ends"
WARM_UP = 2  # steps, beyond the one that compiles
HOST_STEPS = 3  # of a round, after which the host's share is measured


class OutOfMemory(UserError):
    """A contender wanted more memory than there is."""


class Unfinished(UserError):
    """A measurement failed on its way.

    Attributes:
      rows: what was measured until then.
    """

    def __init__(self, message: str, rows: list[dict[str, Any]]):
        super().__init__(message)
        self.rows = rows


@contextmanager
def keeping(rows: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Around rounds: the error of one that fails brings along the rows that have any."""
    try:
        yield
    except UserError as error:
        if measured := [row for row in rows if row.get("rounds", True)]:
            raise Unfinished(str(error), measured) from error
        raise


class Contender:
    """A process that runs steps, started as soon as something is asked of it.

    Args:
      command: its program and arguments.
      environment: variables beside those of this process.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ):
        self.name, self._command = name, command
        self._environment = os.environ | dict(environment or {})
        self._process = None

    def start(self) -> dict[str, Any]:
        """What it says when it is ready, and "start_seconds", from its command to its first step.

        Raises:
          UserError: if it does not come up.
        """
        began = time.monotonic()
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, open as long as the process
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=self._environment,
        )
        about = self._read()
        return about | {"start_seconds": time.monotonic() - began}

    def ask(self, what: str, steps: int) -> dict[str, Any]:
        """Has it run a round of `what`, such as "steps".

        Raises:
          UserError: if it ends over it.
        """
        if self._process is None:
            self.start()
        with suppress(BrokenPipeError):  # of one that was killed while it waited: it is read why
            self._process.stdin.write(json.dumps([what, steps]) + "\n")
            self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """Gives its memory back; it starts again when it is asked."""
        if self._process is not None:
            with suppress(BrokenPipeError):  # what it was last asked, it never read
                self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None
            self._errors.close()

    def _read(self) -> dict[str, Any]:
        for line in self._process.stdout:  # other lines are those of libraries that chat
            if line.startswith("{"):
                return json.loads(line)
        killed = self._process.wait() == -signal.SIGKILL
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()] or ["no word why"]
        lines += [KILLED] * killed
        self.stop()
        kind = OutOfMemory if killed or any(map(OUT_OF_MEMORY.search, lines)) else UserError
        raise kind(f"{self.name} failed: {lines[-1]}")


def start_all(contenders: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    """A row for each name: what it is about, and no rounds yet. All run, but on an accelerator."""
    rows = {}
    for each in contenders:
        rows[each.name] = {"contender": each.name, **each.start(), "rounds": []}
        if _alone(rows[each.name]):
            each.stop()
    return rows


def take_turns(
    contenders: Sequence[Contender], rows: dict[str, dict[str, Any]], *, steps: int, rounds: int
) -> None:
    """Adds rounds of steps to the rows, one of each in turn, so that all share a machine's moods.

    On an accelerator each has it to itself, and starts anew for each round.

    Raises:
      Unfinished: if one fails after some rounds.
    """
    with keeping(rows.values()):
        for number in range(rounds):
            for each in contenders:
                row = rows[each.name]
                if number == 0 or _alone(row):
                    each.ask("steps", WARM_UP)
                row["rounds"].append(each.ask("steps", steps))
                if _alone(row):
                    each.stop()


def _alone(row: dict[str, Any]) -> bool:
    return row["device"] != "cpu"


def serve(
    about: dict[str, Any],
    actions: Mapping[str, Callable[[int], dict[str, Any]]],
    requests: Sequence[str],
) -> None:
    """In the process: says what it is about, then does what it is asked, until there is no more.

    Args:
      requests: lines, as those of standard input.
    """
    print(json.dumps(about), flush=True)
    for line in requests:
        what, steps = json.loads(line)
        print(json.dumps(actions[what](steps)), flush=True)


def time_steps(step: Callable[[], Any], wait: Callable[[], Any], steps: int) -> dict[str, float]:
    """A round of steps that are sent off one after the other.

    Args:
      step: sends a step off.
      wait: until all that was sent off is done.

    Returns:
      step_seconds, of a step, and host_seconds, until one is sent off that nothing keeps waiting;
      where steps are not sent off but made, these are the same.
    """
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    step_seconds = (time.perf_counter() - begin) / steps
    host = []
    for _ in range(HOST_STEPS):
        begin = time.perf_counter()
        step()
        host.append(time.perf_counter() - begin)
        wait()
    return {"step_seconds": step_seconds, "host_seconds": min(host)}


def largest_memory() -> int:
    """Bytes of main memory that this process had at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
