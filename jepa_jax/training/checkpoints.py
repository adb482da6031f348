"""Saves and restores the state of a run: a thin layer over orbax's CheckpointManager.

What is restored is what was saved: beside each state lie the checksums of its leaves, and a
checkpoint that does not match them is put aside for the one before it.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from jepa_jax.errors import UserError
from jepa_jax.training.checksums import checksums


class Restored(NamedTuple):
    step: int
    state: Any
    about: dict[str, Any]  # as it was given when the step was saved


class Damaged(Exception):
    """A checkpoint that cannot be used; the message says why."""


class Checkpoints:
    """The checkpoints of one run, by step. Saving goes on in the background.

    Args:
      folder: where they lie; made if it is not there.
      settings: when to save and what to keep: `config.train`.
    """

    def __init__(self, folder: epath.PathLike, settings: ConfigDict):
        self._folder = epath.Path(folder).absolute()
        self._every = settings.checkpoint_every
        self._seconds = 60 * (settings.checkpoint_minutes or float("inf"))
        self._best = Best(settings.checkpoint_best)
        self._saved_at = time.monotonic()
        keep = [policies.LatestN(settings.checkpoints_kept), self._best]
        if settings.checkpoint_keep_every:
            keep.append(policies.EveryNSteps(settings.checkpoint_keep_every))
        options = ocp.CheckpointManagerOptions(
            create=True,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            lightweight_initialize=True,  # damaged metadata shall not keep sound steps from use
        )
        items = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self._folder, options=options, item_names=tuple(items), item_handlers=items
        )

    def latest(self) -> int | None:
        """The last saved step, or None."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether the settings want this step saved."""
        return step % self._every == 0

    def overdue(self) -> bool:
        """Whether the last save is too long ago, by the clock of this process."""
        return time.monotonic() - self._saved_at >= self._seconds

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Tells what a step scored, so that the best is kept; it may be saved already."""
        self._best.score(step, scores)

    def save(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Saves unless this step is saved already; `about` is stored beside the state, as JSON."""
        self._saved_at = time.monotonic()
        if step == self.latest():
            return
        about = {**about, "checksums": checksums(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            about=ocp.args.JsonSave(about | {"digest": _digest(about)}),
        )
        self._manager.save(step, args=items, force=True)

    def about(self) -> dict[str, Any] | None:
        """What lies beside the newest state; of an older one where that is damaged."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            with contextlib.suppress(Damaged):
                about = self._read(step, about=ocp.args.JsonRestore())["about"]
                return _unsealed(about)
        return None

    def restore(self, shapes: Any, say: Callable[[str], None] = print) -> Restored | None:
        """The newest sound step, or None if nothing was saved. Damaged ones are put aside.

        Args:
          shapes: a tree of ShapeDtypeStructs with shardings: where the state shall go.
          say: is called with a line for each damaged one.

        Raises:
          UserError: if there are checkpoints and none of them is sound.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, shapes)
            except Damaged as problem:
                damaged.append((step, problem))
                say(f"warning: the checkpoint {self._folder / str(step)} is damaged: {problem}")
                continue
            for step, _ in damaged:
                say(f"warning: it is now {self._put_aside(step)}; going on from {restored.step}")
            return restored
        if damaged:
            step, problem = damaged[0]
            raise UserError(
                f"none of the checkpoints in {self._folder} can be used; the newest, {step}:"
                f" {problem}; to start from the beginning, move that folder away"
            )
        return None

    def forget_after(self, step: int) -> None:
        """Deletes later steps, if there is one that is not later."""
        self.wait()
        steps = self._manager.all_steps()
        if min(steps, default=step) <= step:
            for later in [number for number in steps if number > step]:
                self._manager.delete(later)

    def _restore(self, step: int, shapes: Any) -> Restored:
        """What lies there, if it is what was saved."""
        found = self._read(
            step, state=ocp.args.StandardRestore(shapes), about=ocp.args.JsonRestore()
        )
        about, state = _unsealed(found["about"]), found["state"]
        expected, actual = about.pop("checksums"), checksums(state)
        changed = [name for name in actual if actual[name] != expected.get(name)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise Damaged(f"{changed[0]}{more} is not what was saved (checksum)")
        return Restored(step, state, about)

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax raises whatever its storage layers raise
            lines = str(error).strip().splitlines()
            raise Damaged(f"{lines[0] if lines else type(error).__name__}") from error

    def _put_aside(self, step: int) -> epath.Path:
        """Moves a step out of the way of the one that will be saved in its place."""
        place = self._folder.parent / "damaged" / str(step)
        if jax.process_index() == 0:
            place.parent.mkdir(exist_ok=True)
            if place.exists():
                place.rmtree()
            (self._folder / str(step)).rename(place)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"put aside {step}")
        self._manager.reload()
        return place

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self._manager.wait_until_finished()


class Best:
    """Keeps the saved step with the best score so far: an orbax preservation policy.

    Args:
      name: of the score; "" keeps none.
    """

    def __init__(self, name: str):
        self._name = name
        self._scores: dict[int, float] = {}

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        if (value := scores.get(self._name)) is not None:
            self._scores[step] = -value if self._name == "loss" else value

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        scored = [point.step for point in checkpoints if point.step in self._scores]
        best = max(scored, key=self._scores.__getitem__, default=None)
        return [point.step == best for point in checkpoints]


def with_sharding(shapes: Any, sharding: Any) -> Any:
    """Shapes that say where each leaf shall lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding,
    )


def _unsealed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What lies beside a state, if it is what was saved."""
    about = dict(about)
    if about.pop("digest", None) != _digest(about):
        raise Damaged("what lies beside the state is not what was saved")
    return about


def _digest(about: Mapping[str, Any]) -> str:
    """Seals what lies beside a state."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
