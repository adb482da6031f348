"""How fast a run is, and that the host does not run away from the devices."""

import collections
import contextlib
import time

import jax

IN_FLIGHT = 2  # steps that the host may be ahead of the devices


class Rate:
    """Images a second, without compilation and probes; keeps the host near the devices."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._running = collections.deque()
        self._compiled = False
        self.restart()

    def restart(self) -> None:
        self._steps, self._waited, self._since = 0, 0.0, time.monotonic()

    @contextlib.contextmanager
    def waiting(self):
        """Around what may keep the devices waiting: counts if they had no work at its end."""
        begin = time.monotonic()
        yield
        if not self._running or self._running[-1].is_ready():
            self._waited += time.monotonic() - begin

    def tick(self, result: jax.Array) -> None:
        """Counts a step, and waits for those that were sent off too long ago."""
        self._running.append(result)
        self._steps += 1
        if len(self._running) > IN_FLIGHT:
            self._running.popleft().block_until_ready()
        if not self._compiled:
            self._compiled = True
            result.block_until_ready()
            self.restart()

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
