"""One attempt at a time to save, read, move or delete a checkpoint: a thin layer over orbax.

What is read is what was saved: beside each state lie the checksums of its leaves, and a digest of
all that lies there.
"""

import contextlib
import errno
import hashlib
import json
import logging
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from jepa_jax.parallel.processes import is_first
from jepa_jax.training.checksums import checksums
from jepa_jax.training.storage import (
    Damaged,
    is_bucket,
    is_of_machine,
    is_storage_failure,
    side_by_side,
    summary,
    touch_all,
)


class Restored(NamedTuple):
    step: int
    state: Any
    about: dict[str, Any]  # as it was given when the step was saved


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


class _ToldOnce(logging.Filter):
    """Leaves out what orbax logs, with hundreds of lines, of failing storage: it is raised too."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info and record.exc_info[1]
        of_orbax = "orbax" in pathlib.Path(record.pathname).parts
        return not (of_orbax and error and is_storage_failure(error))


_told_once = _ToldOnce()  # one, so that it is added once


class Store:
    """The checkpoints in a folder. Whatever fails raises what orbax and its storage raise.

    Args:
      settings: what to keep: `config.train`.
    """

    def __init__(self, folder: epath.Path, settings: ConfigDict):
        logging.getLogger("absl").addFilter(_told_once)
        self.folder = folder
        self.best = Best(settings.checkpoint_best)
        keep = [policies.LatestN(settings.checkpoints_kept), self.best]
        if settings.checkpoint_keep_every:
            keep.append(policies.EveryNSteps(settings.checkpoint_keep_every))
        self._options = ocp.CheckpointManagerOptions(
            create=True,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            # Otherwise threads that wait for one that could not be made keep the process from its
            # end.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            lightweight_initialize=True,  # damaged metadata shall not keep sound steps from use
        )
        self._manager: ocp.CheckpointManager | None = None

    @property
    def _opened(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.open()
        return self._manager

    def open(self) -> None:
        """Looks at what is there, anew; to be called after a failure.

        What a save left behind that did not come to its end is deleted, as far as it can be.
        There is a new manager: one that failed has forgotten the steps that it meant to delete.
        """
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = None
        if is_first() and self.folder.exists():
            for path in filter(ocp.utils.is_tmp_checkpoint, self.folder.iterdir()):
                with contextlib.suppress(Exception):
                    path.rmtree()
        items = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            self.folder, options=self._options, item_names=tuple(items), item_handlers=items
        )

    def steps(self) -> list[int]:
        return sorted(self._opened.all_steps())

    def path(self, step: int) -> epath.Path:
        return self.folder / str(step)

    def begin(self, step: int, state: Any, about: Mapping[str, Any]) -> None:
        """Begins to save, in the background; `about` is stored beside the state, as JSON."""
        about = {**about, "checksums": checksums(state)}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            about=ocp.args.JsonSave(about | {"digest": _digest(about)}),
        )
        self._opened.save(step, args=items, force=True)

    def busy(self) -> bool:
        """Whether something is being saved."""
        return self._opened.is_saving_in_progress()

    def end(self) -> None:
        """Waits until what was begun is on disk."""
        self._opened.wait_until_finished()

    def about(self, step: int) -> dict[str, Any]:
        """What lies beside a state."""
        return _unsealed(self._read(step, about=ocp.args.JsonRestore())["about"])

    def read(self, step: int, shapes: Any) -> Restored:
        """A checkpoint, if it is what was saved.

        Args:
          shapes: a tree of ShapeDtypeStructs with shardings: where the state shall go.

        Raises:
          Damaged: if it is not, or cannot be read though storage can be reached.
        """
        items = {"state": ocp.args.StandardRestore(shapes), "about": ocp.args.JsonRestore()}
        found = self._read(step, **items)
        about, state = _unsealed(found["about"]), found["state"]
        expected, actual = about.pop("checksums"), checksums(state)
        changed = [name for name in actual if actual[name] != expected.get(name)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise Damaged(f"{changed[0]}{more} is not what was saved (checksum)")
        return Restored(step, state, about)

    def delete(self, step: int) -> None:
        self._opened.delete(step)

    def put_aside(self, step: int) -> epath.Path:
        """Moves a step out of the way of the one that will be saved in its place."""
        place = self.folder.parent / "damaged" / str(step)
        if is_first():
            place.parent.mkdir(exist_ok=True)
            if is_bucket(place):  # where a folder is there only if something lies in it
                (place.parent / "about.txt").write_text("Checkpoints that could not be read.\n")
            if place.exists():
                place.rmtree()
            self.path(step).rename(place)
        return place

    def check_room(self, size: int) -> None:
        """Raises an OSError if so many bytes, or any at all, cannot be written."""
        probe = self.folder / f"room_for_{jax.process_index()}"
        probe.write_text("")
        probe.unlink()
        if not is_bucket(self.folder) and shutil.disk_usage(self.folder).free < size:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _read(self, step: int, **items: ocp.args.CheckpointArgs) -> Any:
        try:
            with side_by_side():
                return self._opened.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            if is_storage_failure(error) or is_of_machine(error):
                raise
            try:  # what lies in a folder that may not be entered seems to be missing
                touch_all(self.path(step))
            except Exception as refused:
                if is_storage_failure(refused):
                    raise
            raise Damaged(summary(error)) from error


def _unsealed(about: Mapping[str, Any]) -> dict[str, Any]:
    """What lies beside a state, if it is what was saved."""
    about = dict(about)
    if about.pop("digest", None) != _digest(about):
        raise Damaged("what lies beside the state is not what was saved")
    return about


def _digest(about: Mapping[str, Any]) -> str:
    """Seals what lies beside a state."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
