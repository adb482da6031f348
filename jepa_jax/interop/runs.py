"""Checkpoints of our own runs, read by themselves: no data, no mesh, nothing is moved or made."""

import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import StorageError, UserError
from jepa_jax.models.transformer import EXACT
from jepa_jax.pretrained import Backbone, Pretrained
from jepa_jax.training.changes import stored_config
from jepa_jax.training.checksums import checksums
from jepa_jax.training.setup import build_model
from jepa_jax.training.storage import absolute, is_storage_failure, side_by_side, summary
from jepa_jax.training.workdir import storage_of

PARTS = {"target": ("target",), "context": ("params", "encoder")}


class Checkpoint(NamedTuple):
    """A saved step of a run."""

    folder: epath.Path
    about: dict[str, Any]  # what was stored beside the state
    results: dict[str, Any] | None  # of the run, if it is finished and these are of this step

    @property
    def step(self) -> int:
        return int(self.folder.name)

    @property
    def config(self) -> ConfigDict:
        return stored_config(self.about["config"])


def read_run(path: os.PathLike, part: str) -> Pretrained:
    """One of the two encoders of a run.

    Args:
      path: the run's folder, its checkpoints', or that of one of them; else it is the newest.
      part: "target" or "context".

    Raises:
      UserError: if there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(path)
    config = checkpoint.config
    model = build_model(config, steps_per_epoch=1)  # of which the encoder knows nothing
    about = {"source": "a run of jepa_jax", "step": checkpoint.step, "config": config.to_dict()}
    if checkpoint.results:
        about["results"] = checkpoint.results
    return Pretrained(
        Backbone(model.encoder.clone(**EXACT), model.mean, model.std),
        read_state(checkpoint, PARTS[part]),
        EvalView.of(config.data),
        part,
        about,
    )


def find_checkpoint(path: os.PathLike) -> Checkpoint:
    """The newest of a run, or the one that the path names.

    Raises:
      UserError: if there is none, or it is damaged.
      StorageError: if storage cannot be reached.
    """
    path = absolute(epath.Path(path).expanduser())
    with storage_of(path, "read"):
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if not (folder / "state").is_dir():
            steps = ocp.utils.checkpoint_steps(folder)
            if not steps:
                raise UserError(
                    f"{path} has no checkpoint: name the folder of a run that saved one"
                )
            folder = folder / str(max(steps))
    try:
        about = json.loads((folder / "about" / "metadata").read_text())
        step, _ = int(folder.name), about["config"]["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_storage_failure(error):
            raise StorageError(f"{folder} cannot be read ({summary(error)})") from None
        raise UserError(f"{folder} is no checkpoint of a run, or damaged ({error!r})") from None
    return Checkpoint(folder, about, _results(folder.parent.parent / "results.json", step))


def read_state(checkpoint: Checkpoint, part: tuple[str, ...]) -> Any:
    """The part of the state that lies under these keys, as NumPy arrays, if it is what was saved.

    Raises:
      UserError: if it is damaged.
      StorageError: if storage cannot be reached.
    """
    handler = ocp.PyTreeCheckpointHandler()
    folder = checkpoint.folder / "state"
    try:
        tree = handler.metadata(folder).tree
        for key in part:
            tree = tree[key]
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        for key in reversed(part):
            shapes = {key: shapes}
        places = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        asked = ocp.args.PyTreeRestore(item=shapes, restore_args=places, partial_restore=True)
        with side_by_side():
            state = handler.restore(folder, args=asked)
    except Exception as error:  # orbax raises whatever its storage layers raise
        if is_storage_failure(error):
            raise StorageError(f"{checkpoint.folder} cannot be read ({summary(error)})") from None
        raise UserError(
            f"{checkpoint.folder} is damaged ({summary(error)}): name an older one"
        ) from None
    stored = checkpoint.about["checksums"]
    for name, checksum in checksums(state).items():
        if checksum != stored.get(name):
            raise UserError(
                f"{checkpoint.folder} is damaged ({name} is not what was saved): name an older one"
            )
    for key in part:
        state = state[key]
    return state


def _results(file: epath.Path, step: int) -> dict[str, Any] | None:
    try:
        results = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return results if isinstance(results, dict) and results.get("step") == step else None
