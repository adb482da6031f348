"""What becomes of steps whose update was left out: told, counted, and in the end acted upon."""

import collections
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from jepa_jax.data.loader import TrainBatches
from jepa_jax.ijepa import Metrics


class Diverged(Exception):
    """The run goes nowhere from here: too many updates in a row were left out, or it is ill.

    Attributes:
      step: the last one done.
      before: the last step that is worth going back to.
      batch: of the last step, by its place in the run's row of batches.
      spoilt: whether later states are no good; they are where updates were only left out.
    """

    def __init__(self, step: int, before: int, batch: int, reason: str, spoilt: bool = False):
        super().__init__(reason)
        self.step, self.before, self.batch, self.spoilt = step, before, batch, spoilt


class Watch:
    """Looks at each step, some steps after it was sent off, so that the devices need not wait.

    `sent` and `settle` raise Diverged if too many updates in a row were left out.

    Args:
      settings: `config.guard`.
      record: is called with what happened and its fields.
      behind: steps that may be under way when one is looked at.
    """

    def __init__(
        self,
        settings: ConfigDict,
        loader: TrainBatches,
        say: Callable[[str], None],
        record: Callable[..., Any],
        behind: int,
    ):
        self._limit, self._loader = settings.in_a_row, loader
        self._say, self._record, self._behind = say, record, behind
        self._sent: collections.deque[tuple[int, int, Metrics]] = collections.deque()

    def sent(self, step: int, batch: int, metrics: Metrics) -> None:
        """Takes note of a step and the number of its batch, and looks at one that is done."""
        self._sent.append((step, batch, metrics))
        if len(self._sent) > self._behind:
            self._look(*self._sent.popleft())

    def settle(self) -> None:
        """Looks at all steps that were sent."""
        while self._sent:
            self._look(*self._sent.popleft())

    def _look(self, step: int, batch: int, metrics: Metrics) -> None:
        in_a_row = int(metrics.skipped_in_a_row)
        if not in_a_row:
            return
        reason = f"loss {float(metrics.loss):g}, gradient norm {float(metrics.gradient_norm):g}"
        images = self._loader.indices(batch)
        self._record("skipped", step=step, reason=reason, images=images)
        self._say(f"warning: step {step} changed nothing ({reason}); events.jsonl has its images")
        if in_a_row >= self._limit:
            before = step - in_a_row
            left_out = f"steps {before + 1} to {step} were left out: {reason}"
            raise Diverged(step, before, batch, left_out)
