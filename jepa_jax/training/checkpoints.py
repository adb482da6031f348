"""When the state of a run is saved, what is done if that fails, and from where a run goes on.

All processes of a run come to the same answers here: what differs between them, such as their
clocks, is asked of the first, or told to all.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from jepa_jax.errors import StorageError, UserError
from jepa_jax.parallel.processes import from_first, gather
from jepa_jax.training import storage
from jepa_jax.training.storage import (
    BackOff,
    Damaged,
    absolute,
    is_out_of_memory,
    patiently,
    summary,
)
from jepa_jax.training.store import Restored, Store

ENOUGH = 3  # failures in a row, before the age of the last good checkpoint counts
COMPRESSED = 0.8  # of a state's bytes that a checkpoint takes, at least


class Good(NamedTuple):
    """A checkpoint that is all there, as far as is known."""

    step: int | None
    time: float  # on the monotonic clock, of its state


class Checkpoints:
    """The checkpoints of one run, by step. Saving goes on in the background.

    A save that fails is told, and done again later, with a later state; it stops the run if the
    last good checkpoint is too old by then. Reading is tried some times before it is an error.

    Args:
      folder: where they lie; made if it is not there.
      settings: when to save and what to keep: `config.train`.
      say: is called with a line for whatever goes wrong.
      record: is called with what happened and its fields.

    Raises:
      StorageError: here and below, if storage cannot be reached.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        settings: ConfigDict,
        say: Callable[[str], None] = print,
        record: Callable[..., Any] = lambda event, **fields: None,
    ):
        self._settings, self._say, self._record = settings, say, record
        self._store = Store(absolute(epath.Path(folder)), settings)
        self._back_off = BackOff()
        self._under_way: Good | None = None
        self._patiently(self._store.open, "{} cannot be opened")
        self._good = self._last_try = Good(max(self._store.steps(), default=None), time.monotonic())

    def latest(self) -> int | None:
        """The last saved step, or None."""
        return self._good.step

    def due(self, step: int, wanted: bool = False) -> bool:
        """Whether to save this step: because of its number, or if it is wanted.

        While saving fails, only `overdue` says when.
        """
        return not self._back_off.failures and (
            wanted or step % self._settings.checkpoint_every == 0
        )

    def overdue(self) -> bool:
        """Whether it is time to save, by the clock of this process.

        To be asked at each step: a process that is alone looks how the save under way went. Several
        look when they save next, all at the same step, since `due` depends on it.
        """
        busy = self._under_way is not None and self._store.busy()
        if not busy and jax.process_count() == 1:
            self.wait()
        if self._back_off.failures:
            return not (busy or self._back_off.seconds())
        minutes = self._settings.checkpoint_minutes or math.inf
        return time.monotonic() - self._last_try.time >= 60 * minutes

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Tells what a step scored, so that the best is kept; it may be saved already."""
        self._store.best.score(step, scores)

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Saves in the background, unless this step is saved already.

        Args:
          about: is stored beside the state, as JSON.
        """
        self.wait()
        if step == self._good.step:
            return
        self._last_try = save = Good(step, time.monotonic())
        if problem := self._no_room(state):
            self._failed(save, problem)
            return
        try:
            if self._back_off.failures:  # what was seen at the last failure may be wrong
                self._store.open()
            self._store.begin(step, state, about)
        except Exception as error:  # orbax raises whatever its storage layers raise
            self._failed(save, summary(error), in_midst=True)
        else:
            self._under_way = save

    def save_last(
        self,
        step: int,
        state: Any,
        about: Mapping[str, Any],
        hurry: Callable[[], bool],
        waiting: Callable[[], Any] = lambda: None,
    ) -> None:
        """Saves and waits until that is done; if it fails, again and again.

        Args:
          hurry: whether there is less than a minute left.
          waiting: is called each second between two tries: to wait is not to hang.

        Raises:
          StorageError: if it cannot be done in time.
        """
        waits = iter(storage.WAITS)
        while True:
            self.save(step, state, about)
            self.wait()
            if step == self._good.step:
                return
            left = from_first(self._back_off.seconds())
            while left > 0 and not any(gather(hurry())):
                waiting()
                time.sleep(min(left, 1.0))
                left -= 1.0
            if any(gather(hurry())):
                if (wait := next(waits, None)) is None:
                    raise StorageError(f"step {step} could not be saved; {self._last_good()}")
                time.sleep(wait)

    def wait(self) -> None:
        """Until what is being saved is on disk, or has failed."""
        if (save := self._under_way) is None:
            return
        self._under_way = None
        try:
            self._store.end()
        except Exception as error:  # as above
            self._failed(save, summary(error), in_midst=True)
            return
        self._good = save
        if self._back_off.failures:
            self._say(f"step {save.step} is saved, after {self._back_off.failures} failures")
            self._record("checkpoint_works_again", step=save.step)
            self._back_off = BackOff()

    def about(self) -> dict[str, Any] | None:
        """What lies beside the newest state; of an older one where that is damaged."""
        for step in reversed(self._patiently(self._store.steps, "{} cannot be read")):
            try:
                return self._patiently(self._store.about, "{} cannot be read", step)
            except Damaged:
                continue
        return None

    def restore(self, shapes: Any) -> Restored | None:
        """The newest sound step, or None if nothing was saved. Damaged ones are put aside.

        Args:
          shapes: a tree of ShapeDtypeStructs with shardings: where the state shall go.

        Raises:
          UserError: if there are checkpoints and none of them is sound, or the state does not fit
            into memory.
        """
        read = functools.partial(self._store.read, shapes=shapes)
        damaged = []
        for step in reversed(self._patiently(self._store.steps, "{} cannot be read")):
            try:
                restored = self._patiently(read, "{} cannot be read", step)
            except StorageError as error:
                advice = "to go on from an earlier one, move it away"
                raise StorageError(f"{error}; {advice}") from error
            except Damaged as problem:
                damaged.append((step, problem))
                self._say(f"warning: the checkpoint {self._store.path(step)} is damaged: {problem}")
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(
                    f"the state of {self._store.path(step)} does not fit into memory: take more"
                    " devices or a larger mesh.fsdp"
                ) from error
            for step, _ in damaged:
                place = self._patiently(self._store.put_aside, "{} cannot be moved away", step)
                self._say(f"warning: it is now {place}; going on from {restored.step}")
            if damaged:
                self._patiently(self._store.open, "{} cannot be opened")
            self._good = Good(restored.step, time.monotonic())
            return restored
        if damaged:
            step, problem = damaged[0]
            raise UserError(
                f"none of the checkpoints in {self._store.folder} can be used; the newest, {step}:"
                f" {problem}; to start from the beginning, move that folder away"
            )
        return None

    def forget_after(self, step: int) -> bool:
        """Deletes later steps, unless all are later; says whether it could."""
        self.wait()
        steps = self._patiently(self._store.steps, "{} cannot be read")
        if min(steps, default=step) > step:
            return False
        for later in [number for number in steps if number > step]:
            self._patiently(self._store.delete, "{} cannot be deleted", later)
        self._good = Good(max(self._store.steps(), default=None), self._good.time)
        return True

    def _patiently(self, action: Callable[..., Any], what: str, *step: int) -> Any:
        path = self._store.path(*step) if step else self._store.folder
        return patiently(functools.partial(action, *step), what.format(path), self._say)

    def _no_room(self, state: Any) -> str | None:
        """Why one of several processes would fail, while the others wait for it."""
        if jax.process_count() == 1:
            return None
        problem = None
        try:
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            self._store.check_room(int(COMPRESSED * size))
        except Exception as error:  # as above
            problem = summary(error)
        return next(filter(None, gather(problem)), None)

    def _failed(self, save: Good, reason: str, in_midst: bool = False) -> None:
        """Tells of a save that failed, and stops the run if it has been failing for too long.

        Args:
          in_midst: the other processes, if there are any, may wait for this one without end.
        """
        what = f"step {save.step} could not be saved ({reason})"
        if in_midst:
            if jax.process_count() > 1:
                raise StorageError(f"{what}; {self._last_good()}; the same command goes on")
            with contextlib.suppress(Exception):
                self._store.open()  # which makes room
                if save.step in self._store.steps():  # what failed came afterwards
                    self._good = save
        self._back_off.failed()
        age = from_first(time.monotonic() - self._good.time)
        self._record(
            "checkpoint_failed",
            step=save.step,
            reason=reason,
            last_good=self._good.step,
            minutes_since=age / 60,
        )
        limit = 60 * (self._settings.checkpoint_max_age_minutes or math.inf)
        if age > limit and self._back_off.failures >= ENOUGH:
            raise StorageError(
                f"{what}; {self._last_good()}, which is longer than"
                " train.checkpoint_max_age_minutes; the same command goes on from there"
            )
        wait = f"trying again in {self._back_off.seconds():.0f} s"
        self._say(f"warning: {what}; {self._last_good()}; {wait}")

    def _last_good(self) -> str:
        minutes = (time.monotonic() - self._good.time) / 60
        if self._good.step is None:
            return f"there is no checkpoint yet, after {minutes:.0f} minutes"
        return f"the last good checkpoint is of step {self._good.step}, {minutes:.0f} minutes ago"


def with_sharding(shapes: Any, sharding: Any) -> Any:
    """Shapes that say where each leaf shall lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding,
    )
