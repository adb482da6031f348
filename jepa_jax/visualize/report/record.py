"""What is known of a run, from its folder alone."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jepa_jax.errors import UserError
from jepa_jax.interop.runs import find_checkpoint
from jepa_jax.training.changes import stored_config
from jepa_jax.training.goodput import Account, goodput, tells_of_time
from jepa_jax.training.workdir import Workdir, storage_of

Row = Mapping[str, Any]
MESH = ("mesh.replica", "mesh.fsdp", "mesh.tensor")


@dataclasses.dataclass(frozen=True)
class Record:
    """One run. Settings and versions are flat: "optim.learning_rate" -> 0.001."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]  # versions and mesh of the newest checkpoint; {} without one
    rows: Sequence[Row]  # of metrics.jsonl
    events: Sequence[Row]
    results: Row | None  # if it is finished
    pictures: dict[str, epath.Path]

    @functools.cached_property
    def account(self) -> Account | None:
        """Where the time went."""
        return goodput(self.events)

    @functools.cached_property
    def device_hours(self) -> float | None:
        """Hours of all devices together while a process was up; None if not known."""
        if self.account is None:
            return None
        mesh = {name: self.environment.get(name, math.nan) for name in MESH}
        changes = [event for event in self.of("change") if event.get("name") in MESH]
        mesh |= {event["name"]: event["old"] for event in reversed(changes)}  # as it began
        seconds, devices = 0.0, 0
        for event in self.events:
            if event["event"] == "start":  # older runs' do not tell how many
                devices = event.get("devices") or math.prod(mesh.values())
            elif event in changes:
                mesh[event["name"]] = event["new"]
            if tells_of_time(event):
                seconds += devices * sum(event["seconds"].values())
        return None if math.isnan(seconds) else seconds / 3600

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of the rows that have the number, by step."""
        found = {row["step"]: row[name] for row in self.rows if is_number(row.get(name))}
        return sorted(found.items())

    def of(self, event: str) -> list[Row]:
        """The events of this kind."""
        return [row for row in self.events if row["event"] == event]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_record(path: epath.PathLike, name: str) -> Record:
    """The run in a folder, which may be under way.

    Raises:
      UserError: if there is none.
    """
    folder = epath.Path(path).expanduser()
    if not (folder / "config.json").exists():
        raise UserError(f"{path} holds no config.json: give the --workdir of a run")
    workdir = Workdir(folder, writes=False)
    config = workdir.config()
    if not isinstance(config.get("train"), dict):
        raise UserError(f"{path} holds no config.json of a run: give its --workdir")
    try:
        about = find_checkpoint(folder).about
    except UserError:  # none yet, or a damaged one: the rest is still worth telling
        about = {}
    environment = {part: about[part] for part in ("versions", "mesh") if part in about}
    pictures = sorted(folder.glob("*.png")) + sorted((folder / "pictures").glob("*.png"))
    rows, results = workdir.rows(), workdir.results()
    if results and rows and results["step"] < rows[-1]["step"]:  # it went on after an earlier end
        results = None
    return Record(
        name,
        plain_settings(stored_config(config)),
        flatten_dict(environment, sep="."),
        rows,
        workdir.events(),
        results,
        {file.stem: epath.Path(file) for file in pictures},  # the later ones count
    )


def read_records(paths: Sequence[str]) -> list[Record]:
    """The runs, each with a name that tells it from the others: the end of its path."""
    if len({os.path.abspath(path) for path in paths}) < len(paths):
        raise UserError("a run is named twice: give each folder once")
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    length = 1
    while len({tuple(part[-length:]) for part in parts}) < len(parts):
        length += 1
    names = ["/".join(part[-length:]) for part in parts]
    found = []
    for path, name in zip(paths, names, strict=True):
        with storage_of(path, "read"):
            found.append(read_record(path, name))
    return found


def differences(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all, in their order."""
    first = tables[0]
    return [key for key in all_keys(tables) if any(x.get(key) != first.get(key) for x in tables)]


def all_keys(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(key for table in tables for key in table))


def plain_settings(config: ConfigDict) -> dict[str, Any]:
    """Flat, as JSON has them."""
    return flatten_dict(json.loads(config.to_json()), sep=".")
