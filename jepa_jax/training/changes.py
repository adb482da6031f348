"""What differs between a run as it is stored and as it is asked for now: what may, and what not."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jepa_jax.config import defaults
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.ijepa import State
from jepa_jax.optim import Schedules

# Beginnings of the names of what may change between two starts of one run. Most of it has no say in
# what is learned; a changed end stretches the schedules, which `schedule_change` tells.
FREE = (
    "train.epochs",
    "train.log_every",
    "train.checkpoint",
    "guard.in_a_row",
    "guard.roll_backs",
    "guard.hang_minutes",
    "doctor.",
    "logging.",
    "probe.",
    "model.unroll",
    "model.remat",
    "model.attention",
    # Where the images lie: whether they are the same is told by themselves.
    "data.source",
    "data.path",
    "data.name",
    "data.mixture",
    "data.image_key",
    "data.label_key",
    "data.train_split",
    "data.test_split",
    "data.threads",
    "data.workers",
    "data.broken_share",
    "data.eval_crop",
    # Of the machine.
    "mesh.",
    "versions.",
)
DATA = "data"  # the name of the difference between images that are not the same


class Change(NamedTuple):
    name: str
    old: Any
    new: Any

    def __str__(self):
        return f"{self.name}: {self.old} -> {self.new}"

    @property
    def free(self) -> bool:
        return self.name.startswith(FREE)


def find_changes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Change]:
    """The differences of what `about_run` says; parts that either lacks are not compared.

    The setting of the mesh is none of them: the mesh that came of it is.
    """
    found = []
    for part in stored.keys() & wanted.keys():
        old, new = stored[part], wanted[part]
        if part == "config":
            found += differences(_without_mesh(old), _without_mesh(new))
        elif part == "data":
            found += [Change(DATA, _images(old), _images(new))] if old != new else []
        elif part in ("mesh", "versions"):
            found += differences(old, new, f"{part}.")
    return sorted(found, key=lambda change: change.name)


def refuse(
    found: Sequence[Change], force: Collection[str], forced_before: Collection[str], folder: Any
) -> None:
    """Stops at what may not change.

    Args:
      force: the names of changes that are wanted all the same.
      forced_before: at earlier starts; may be forced again, since the same command goes on.

    Raises:
      UserError: for changes that are neither free nor forced, and for forced ones that are none.
    """
    names = [change.name for change in found]
    for name in force:
        if name not in names and name not in forced_before:
            binding = [change.name for change in found if not change.free]
            differing = f"what differs is {', '.join(binding)}" if binding else "nothing differs"
            raise UserError(
                f"--force={name} is no difference between this run and the one in {folder}:"
                f" {differing}{did_you_mean(name, names)}"
            )
    refused = [change for change in found if not change.free and change.name not in force]
    if refused:
        raise UserError(
            f"{folder} holds a run of another config ({'; '.join(map(str, refused))}): take another"
            " --workdir or the stored values, or go on all the same with"
            f" --force={','.join([*force, *(change.name for change in refused)])}"
        )


def refuse_shapes(old: State, new: State) -> None:
    """Stops if what was forced would give the state other arrays.

    Raises:
      UserError: naming the first of them.
    """
    before, after = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{[*leaf.shape]}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (old, new)
    )
    for change in differences(before, after):
        raise UserError(
            f"the stored state does not fit ({change}), which cannot be forced: take another"
            " --workdir"
        )


def schedule_change(old: Schedules, new: Schedules, step: int) -> list[str]:
    """Tells what becomes of the schedules after so many steps, if they differ."""
    if old == new:
        return []
    before, after = (schedules(jnp.int32(step))._asdict() for schedules in (old, new))
    values = "; ".join(
        f"{name.replace('_', ' ')} {before[name]:.3g} -> {after[name]:.3g}" for name in before
    )
    return [
        f"the schedules are now those of {new.steps} steps instead of {old.steps}, as if they had"
        f" been so from the start; at step {step + 1}: {values}"
    ]


def stored_config(stored: Mapping[str, Any]) -> ConfigDict:
    """A config that was stored as JSON; settings that it had no word for are the defaults."""
    config = defaults()
    with config.unlocked(), config.ignore_type():
        config.update(stored)
    return config


def differing(config: ConfigDict) -> dict[str, Any]:
    """The settings that are not the defaults, by dotted key, as JSON has them."""
    usual, own = (json.loads(each.to_json()) for each in (defaults(), config))
    return {change.name: change.new for change in differences(usual, own)}


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[Change]:
    """Of two trees of dicts, by dotted name."""
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) or isinstance(after, Mapping):  # a section may be new
            yield from differences(before or {}, after or {}, f"{prefix}{name}.")
        elif before != after:
            yield Change(f"{prefix}{name}", before, after)


def _without_mesh(stored: Mapping[str, Any]) -> dict[str, Any]:
    """All settings but the mesh's; those that an older version had no word for are the defaults."""
    settings = json.loads(stored_config(stored).to_json())
    return {name: value for name, value in settings.items() if name != "mesh"}


def _images(identity: Mapping[str, Any]) -> str:
    return f"{identity['examples']:,} images ({identity['sample']})"
