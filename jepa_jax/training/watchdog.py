"""Ends a run that stands still, and says where it does."""

import faulthandler
import multiprocessing
import os
import tempfile
import threading

from etils import epath

from jepa_jax.exits import HUNG
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.signals import exit_now

QUICK = ("step", "data_wait")  # what comes back within the limit
SLOW = 6  # times the limit that all else has: compilation, saves, evaluation, restoring
CHECKS = 20  # within the limit
PATIENCE = 10.0  # seconds for the last words: what hangs may be the disk


class Watchdog:
    """Ends the process, with all stacks and exit code HUNG, when it gets on with nothing.

    A context.

    Where C code holds Python's lock, no thread gets to do that: then Python's fault handler ends
    the process, with exit code 1 and the stacks on stderr alone.

    Args:
      ledger: tells what the run is doing, and that it gets on.
      minutes: without a step; SLOW times as many for what is no step. 0: never mind.
      file: where to write the stacks, beside stderr.
    """

    def __init__(self, ledger: Ledger, minutes: float, file: epath.Path):
        self._ledger, self._limit, self._file = ledger, 60 * minutes, file
        self._left = threading.Event()

    def __enter__(self):
        if self._limit:
            self._arm()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._left.set()
        if self._limit:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._limit * SLOW, exit=True, file=2)

    def _watch(self) -> None:
        # Counted in checks, not by a clock: a process that was suspended has not stood still.
        moves, checks = None, 0
        while not self._left.wait(self._limit / CHECKS):
            self._arm()
            doing, checks = self._ledger.doing, checks + 1
            if moves != self._ledger.moves:
                moves, checks = self._ledger.moves, 0
            limit = self._limit * (1 if doing in QUICK else SLOW)
            if checks * self._limit / CHECKS >= limit:
                self._end(f"no step ended for {limit / 60:g} minutes, in {doing!r}")

    def _end(self, reason: str) -> None:
        words = f"error: {reason} (guard.hang_minutes); the stacks of all threads follow\n"
        os.write(2, words.encode())  # not by print, which may be locked
        faulthandler.dump_traceback(file=2)
        keeping = threading.Thread(target=self._keep, args=[reason], daemon=True)
        keeping.start()
        keeping.join(PATIENCE)
        for worker in multiprocessing.active_children():
            worker.kill()  # one that was stopped does not see that it is alone
        exit_now(HUNG)

    def _keep(self, reason: str) -> None:
        with tempfile.TemporaryFile("w+") as stacks:
            faulthandler.dump_traceback(file=stacks)
            stacks.seek(0)
            self._file.write_text(f"{reason}\n{stacks.read()}")
        self._ledger.record("hung", reason=reason)
