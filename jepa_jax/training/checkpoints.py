"""Saves and restores the state of a run: a thin layer over orbax's CheckpointManager."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jepa_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one run, by step. Saving goes on in the background.

    Args:
      folder: where they lie; made if it is not there.
      kept: how many of the last ones to keep.
    """

    def __init__(self, folder: epath.PathLike, kept: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=kept, create=True)
        self._manager = ocp.CheckpointManager(epath.Path(folder).absolute(), options=options)

    def latest(self) -> int | None:
        """The last saved step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Saves unless this step is saved already."""
        if step != self.latest():
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def restore(self, step: int, shapes: Any) -> Any:
        """The state of a step.

        Args:
          shapes: a tree of ShapeDtypeStructs with shardings: where the state shall go.

        Raises:
          UserError: if what is saved is not of this model, or damaged.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except Exception as error:  # orbax raises whatever its storage layers raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(
                f"the checkpoint {self._manager.directory / str(step)} cannot be read ({reason}):"
                " if it is damaged, move that one folder away to go on from the step before it"
            ) from error

    def wait(self) -> None:
        """Until all that was saved is on disk."""
        self._manager.wait_until_finished()


def with_sharding(shapes: Any, sharding: Any) -> Any:
    """Shapes that say where each leaf shall lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding,
    )
