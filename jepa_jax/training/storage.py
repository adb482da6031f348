"""Storage that fails: told from what it holds being damaged, and asked again, ever later."""

import contextlib
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from etils import epath

from jepa_jax.errors import StorageError, UserError
from jepa_jax.outage import WAITS, is_outage
from jepa_jax.parallel.processes import gather

T = TypeVar("T")

FIRST, LONGEST = 10.0, 600.0  # seconds between tries to save

# How the messages of tensorstore, which reads and writes the arrays, begin where it is not damage.
# UNKNOWN is how it calls most errors of an operating system, EIO for one.
STATUS = (
    *("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED"),
    *("RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL", "UNKNOWN"),
)

# What a bucket is reached through has errors of its own; and how the names of those begin that
# tell of damage.
CLIENTS = (
    *("gcsfs.", "google.auth.", "google.api_core.", "google.cloud."),
    *("aiohttp.", "requests.", "tensorflow."),
)
CLIENTS_DAMAGE = ("NotFound", "DataLoss")


class Damaged(Exception):
    """What storage holds is not what was written; the message says why."""


class BackOff:
    """When to try again after failures: at first soon, then ever later."""

    def __init__(self):
        self.failures = 0
        self._again = 0.0

    def failed(self) -> None:
        self._again = time.monotonic() + min(LONGEST, FIRST * 2 ** min(self.failures, 10))
        self.failures += 1

    def seconds(self) -> float:
        """Until it is time to try again."""
        return max(0.0, self._again - time.monotonic()) if self.failures else 0.0


def patiently(action: Callable[[], T], what: str, say: Callable[[str], None]) -> T:
    """The result of an action, which is done again while storage fails, by all processes.

    Args:
      what: is told of a failure.

    Raises:
      StorageError: if it does not stop failing.
      Damaged: if the action of one of the processes says so.
    """
    for wait in (*WAITS, None):
        result, damage, refusal = None, None, None
        try:
            result = action()
        except Damaged as problem:
            damage = str(problem)
        except Exception as error:
            if not is_storage_failure(error):
                raise
            refusal = summary(error)
        damages, refusals = zip(*gather([damage, refusal]), strict=True)
        refusal = next(filter(None, refusals), None)
        if refusal is None:
            if damage := next(filter(None, damages), None):
                raise Damaged(damage)
            return result
        if wait is not None:
            say(f"warning: {what} ({refusal}); trying again in {wait:g} s")
            time.sleep(wait)
    raise StorageError(f"{what} ({refusal})")


def is_storage_failure(error: BaseException) -> bool:
    """Whether storage could not be reached or refused, so that nothing is known of what it holds.

    Not so for what is missing: on storage that can be reached, that is damage.
    """
    return not is_of_machine(error) and any(map(_is_failure, _causes(error)))


def _is_failure(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return is_outage(error)
    if is_refusal(error):
        return not type(error).__name__.startswith(CLIENTS_DAMAGE)
    return str(error).startswith(STATUS)


def is_refusal(error: BaseException) -> bool:
    """Whether storage raised it: an OSError, or what a bucket is reached through."""
    return isinstance(error, OSError) or f"{type(error).__module__}.".startswith(CLIENTS)


def is_of_machine(error: BaseException) -> bool:
    """Whether memory, threads or devices failed, which says nothing of storage or what it holds."""
    return any(
        isinstance(each, jax.errors.JaxRuntimeError | MemoryError)
        or str(each) == "can't start new thread"
        for each in _causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the host or of a device did not suffice."""
    return is_of_machine(error) and any(
        isinstance(each, MemoryError) or str(each).startswith("RESOURCE_EXHAUSTED")
        for each in _causes(error)
    )


def is_bucket(path: os.PathLike | str) -> bool:
    """Whether it is one such as gs://bucket/folder."""
    return "://" in str(path)


def local_path(name: os.PathLike | str, flag: str = "--out") -> pathlib.Path:
    """The place that a flag names, for what is written as local files alone.

    Raises:
      UserError: if it is in a bucket; pathlib would make a folder `gs:` of it.
    """
    if is_bucket(name):
        raise UserError(f"{name} is in a bucket: name a local or shared place in {flag}")
    return pathlib.Path(name).expanduser()


def absolute(path: epath.Path) -> epath.Path:
    """The same path, wherever the current folder is; pathlib would look for gs:// in it."""
    return path if is_bucket(path) else path.absolute()


def touch_all(path: epath.Path) -> None:
    """Reads a little of every file below a path. An OSError tells what cannot be read."""
    for entry in path.iterdir():
        if entry.is_dir():
            touch_all(entry)
        else:
            with entry.open("rb") as file:
                file.read(1)


def summary(error: BaseException) -> str:
    """What went wrong, in a line that is not long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.split(r" \[tensorstore_spec| \[source | See full TensorStore", lines[0])[0]
    return text if len(text) <= 200 else f"{text[:60]} … {text[-130:]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextlib.contextmanager
def side_by_side() -> Iterator[None]:
    """Around what reads arrays side by side.

    Where one fails, those that are still under way find nobody who waits, and each prints a stack
    of its own, some of them long after: these are left out from then on.
    """
    usual = sys.unraisablehook

    def hook(told: Any) -> None:
        if str(told.exc_value) != "Event loop is closed":
            usual(told)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = usual  # after a failure it stays
