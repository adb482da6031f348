"""What a run is made of, and whether it may go on where it lies."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.config import mesh_shape
from jepa_jax.console import new_console, say
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.probe import Probe
from jepa_jax.parallel import processes
from jepa_jax.parallel.placement import check_split
from jepa_jax.parallel.processes import is_first
from jepa_jax.parallel.sharding import make_mesh, process_share, tree_sharding
from jepa_jax.training.about import about_run, data_identity
from jepa_jax.training.changes import (
    find_changes,
    refuse,
    refuse_shapes,
    schedule_change,
    stored_config,
)
from jepa_jax.training.checkpoints import Checkpoints
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.loggers import check_place, logger_names
from jepa_jax.training.setup import build_model, purpose_key, total_steps
from jepa_jax.training.workdir import Workdir
from jepa_jax.validation import validate


@dataclasses.dataclass(frozen=True)
class Run:
    """What the parts of a run share, and none of them changes."""

    config: ConfigDict
    loader: TrainBatches
    probe: Probe | None
    model: ijepa.IJEPA
    total: int  # steps
    workdir: Workdir
    checkpoints: Checkpoints
    mesh: jax.sharding.Mesh
    ledger: Ledger

    @functools.cached_property
    def fresh(self):
        """Makes the state that the run starts from, the same every time."""
        key = purpose_key(self.config.seed, "init")
        data = self.config.data
        return functools.partial(ijepa.init, self.model, key, (*data.image_size, data.channels))

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """What is stored beside each state."""
        return about_run(self.config, self.mesh) | {"data": data_identity(self.loader.source)}

    @functools.cached_property
    def shapes(self) -> ijepa.State:
        return jax.eval_shape(self.fresh)

    @functools.cached_property
    def sharding(self) -> ijepa.State:
        return tree_sharding(self.shapes, self.mesh)


def prepare(
    config: ConfigDict,
    path: str,
    began: float | None = None,
    held: contextlib.ExitStack | None = None,
) -> Run:
    """What is asked for, and whether it can be done.

    Args:
      held: what shall hold the lock of the folder; None: who does not train needs none.
    """

    def parts() -> dict[str, Any]:
        validate(config, jax.device_count())
        mesh = make_mesh(mesh_shape(config, jax.device_count()))
        source = open_source(config.data, config.data.train_split)
        loader = TrainBatches(
            source,
            config.data,
            seed=config.seed,
            batch_size=config.train.batch_size,
            shard=process_share(mesh),
        )
        workdir = Workdir(path, writes=is_first())
        check_place(logger_names(config), workdir.path)
        if held:
            held.enter_context(workdir.lock())
        return {
            "loader": loader,
            "probe": Probe(config, source, mesh) if config.data.test_split else None,
            "model": build_model(config, loader.steps_per_epoch),
            "total": total_steps(config, loader.steps_per_epoch),
            "workdir": workdir,
            "mesh": mesh,
        }

    found = processes.all_or_none(parts)
    workdir = found["workdir"]
    ledger = Ledger(workdir.record, began)
    checkpoints = Checkpoints(
        workdir.path / "checkpoints",
        config.train,
        say=functools.partial(say, new_console(quiet=not is_first())),
        record=ledger.record,
    )
    run = Run(config=config, checkpoints=checkpoints, ledger=ledger, **found)
    check_split(run.shapes.params, run.sharding.params)
    return run


def claim(run: Run, force: Sequence[str], finished: bool) -> list[str]:
    """Compares what is asked for with what is stored, and unless the run is finished, stores it.

    Returns:
      What to tell: a line for each change; of a finished run for each since its results were found.

    Raises:
      UserError: if a change may not be and is not forced.
    """
    stored, latest = run.checkpoints.about(), run.checkpoints.latest() or 0
    if stored is None and (config := run.workdir.config()):
        stored = {"config": config}
    # To know the images, some are read: not for a finished run that is only asked again.
    asked = about_run(run.config, run.mesh) if finished and not force else run.about
    found = find_changes(stored or {}, asked)
    refuse(found, force, run.workdir.forced(), run.workdir.path)
    if finished:
        # What was started last found them, and may have had nothing left to save.
        config = run.workdir.config()
        found = find_changes({"config": config} if config else {}, asked)
        return [f"changed: {each}" for each in found]
    if latest > run.total:
        raise UserError(
            f"{run.workdir.path} is past that: {latest} steps are done, and"
            f" train.epochs={run.config.train.epochs:g} makes {run.total}"
        )
    if run.workdir.results() and not latest:
        raise UserError(
            f"{run.workdir.path} holds results, but no checkpoint to go on from: take another"
            " --workdir"
        )
    lines = [f"{'forced' if each.name in force else 'changed'}: {each}" for each in found]
    if found and latest:
        old_config = stored_config(stored["config"])
        examples = stored.get("data", run.about["data"])["examples"]
        model = build_model(old_config, examples // old_config.train.batch_size)
        if force:
            old = dataclasses.replace(run, config=old_config, model=model)
            refuse_shapes(old.shapes, run.shapes)
        lines += schedule_change(model.schedules, run.model.schedules, latest)
    processes.wait_for_all("compared")  # before the first writes what the others compare with
    run.workdir.claim(run.config, found, force)
    return lines
