"""How fast a run is, and that the host does not run away from the devices."""

import collections
import contextlib
import time

import jax

from jepa_jax.training.ledger import Ledger

IN_FLIGHT = 2  # steps that the host may be ahead of the devices


class Rate:
    """Images a second, without compilation and probes; keeps the host near the devices.

    Args:
      ledger: is told what time goes to: the first step to "compile", the others to "step", and to
        "data_wait" where the devices have no work for want of images.
    """

    def __init__(self, batch_size: int, ledger: Ledger):
        self._batch_size, self._ledger = batch_size, ledger
        self._running = collections.deque()
        self._compiled = False
        ledger.enter("compile")
        self.restart()

    def restart(self) -> None:
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting(self):
        """Around what may keep the devices waiting: counts if they had no work at its end."""
        begin = time.monotonic()
        before = self._ledger.enter("data_wait")
        yield
        idle = not self._running or self._running[-1].is_ready()
        if idle:
            self._waited += time.monotonic() - begin
        self._ledger.enter(before, was=None if idle else before)

    def tick(self, result: jax.Array) -> None:
        """Counts a step, and waits for those that were sent off too long ago."""
        self._running.append(result)
        self._steps += 1
        if len(self._running) > IN_FLIGHT:
            self._running.popleft().block_until_ready()
        if not self._compiled:
            self._compiled = True
            result.block_until_ready()
            self._ledger.record("compile")
            self.restart()
        self._ledger.enter("step")

    def measure(self) -> dict[str, float | None]:
        """Since the last restart; None if no step was made since.

        Returns:
          images_per_second: of the whole run.
          input_wait: share of the time in which the devices waited for images, at most.
        """
        if not self._steps:
            return {"images_per_second": None, "input_wait": None}
        self._running[-1].block_until_ready()
        elapsed = time.monotonic() - self._since
        return {
            "images_per_second": self._batch_size * self._steps / elapsed,
            "input_wait": self._waited / elapsed,
        }
