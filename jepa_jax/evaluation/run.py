"""The evaluation: of each backbone the features, each protocol on them, and what came out."""

import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console

from jepa_jax.console import clock, new_console, say
from jepa_jax.data.protocol import has_masks
from jepa_jax.data.synthetic import LABELS
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import digest
from jepa_jax.evaluation.extractor import Extractor, images_identity
from jepa_jax.evaluation.given_features import given_task
from jepa_jax.evaluation.opening import How, check_names, check_recipe, first_run, open_backbone
from jepa_jax.evaluation.options import choose
from jepa_jax.evaluation.paper import encoder_name, paper_numbers
from jepa_jax.evaluation.protocols import PROTOCOLS
from jepa_jax.evaluation.report import ResultsFile, result_table, summary_table
from jepa_jax.evaluation.splits import ALL, Split, open_splits
from jepa_jax.evaluation.task import Protocol, Task
from jepa_jax.parallel.processes import from_first, is_first
from jepa_jax.parallel.sharding import make_mesh
from jepa_jax.training.storage import local_path

# (protocol, options) -> a task of one backbone, and what tells it from others
Tasks = Callable[[Protocol, Any], tuple[Task, Any]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
      checkpoints: see `opening.open_backbone`.
      protocols: names of PROTOCOLS.
      config: whose section `data` tells of the images.
      settings: of protocols, such as "knn.neighbours=10,20".
      out: folder for results, features and what protocols go on from; "" for `evaluation` in the
        folder of the first checkpoint that is a run.
      features: of other backbones, "train.npz,test.npz" each; see `features_file`.
      train_images, test_images: at most so many, at random.
    """

    checkpoints: list[str]
    protocols: list[str]
    config: ConfigDict | None
    settings: list[str] = dataclasses.field(default_factory=list)
    out: str = ""
    how: How = dataclasses.field(default_factory=How)
    features: list[str] = dataclasses.field(default_factory=list)
    train_images: int = ALL
    test_images: int = ALL
    seed: int = 0


def evaluate(asked: Asked) -> None:
    """Evaluates, shows tables, and writes `results.json`. What is there already is not done again.

    Raises:
      UserError: for whatever is wrong with what is asked.
    """
    console = new_console(quiet=not is_first())
    chosen = choose(asked.protocols, asked.settings, PROTOCOLS)
    check_names(asked.checkpoints)
    out = _out(asked)
    results = ResultsFile(epath.Path(out / "results.json"))
    found = []
    for tasks in _tasks(asked, out, console):
        for protocol, options in chosen:
            task, identity = tasks(protocol, options)
            if protocol.needs == "model" and task.model is None:
                raise UserError(f"{protocol.name} needs one encoder of jepa_jax, not {task.name}")
            key = _key(identity, protocol, options, asked.seed)
            # The first process alone sees what another command has put there meanwhile.
            result = from_first(results.get(key))
            if result is None or from_first(is_first() and task.mended(result.get("left_out", []))):
                mine = dataclasses.replace(task, folder=epath.Path(out / "state" / key))
                result = results.put(key, _run(protocol, options, mine), writes=is_first())
            # What is kept may be of the same weights and images under other names.
            result = result | _names(protocol, task, result["rows"])
            say(console, result_table(result))
            if lost := result.get("left_out"):
                say(console, f"without {len(lost)} of the images, which can't be read;")
                say(console, "once one of them can, the same command evaluates anew")
            say(console, f"{clock(result['seconds'])} for {protocol.name}\n")
            found.append(result)
    if len(found) > 1:
        say(console, summary_table(found))
    say(console, f"{out}/results.json has these results and their settings")


def _key(identity: Any, protocol: Protocol, options: Any, seed: int) -> str:
    # The mark tells results of crops that hang on options and view alone from older ones.
    mark = ["plain crops"] if protocol.needs == "model" else []
    mark += [protocol.reads(options)] if protocol.reads else []
    return digest([identity, protocol.name, dataclasses.asdict(options), seed, *mark])


def _tasks(asked: Asked, out: pathlib.Path, console: Console) -> Iterator[Tasks]:
    """For each backbone what makes tasks of it; one backbone is in memory at a time."""
    mesh = make_mesh((jax.device_count(), 1, 1))
    if asked.checkpoints:
        yield from _image_tasks(asked, out, mesh, console)
    counts = asked.train_images, asked.test_images
    for names in asked.features:
        given = given_task(names, epath.Path(out / "state"), mesh, counts, asked.seed)
        yield partial(_only_features, given)


def _only_features(given: tuple[Task, Any], protocol: Protocol, options: Any) -> tuple[Task, Any]:
    if protocol.images or protocol.sets or protocol.needs == "masks":
        raise UserError(f"{protocol.name} needs images, but {given[0].name} is a file of features")
    return given


def _image_tasks(
    asked: Asked, out: pathlib.Path, mesh: jax.sharding.Mesh, console: Console
) -> Iterator[Tasks]:
    if asked.config is None:
        raise UserError("say which images: --config=configs/digits.py, or a run as --checkpoint")
    check_recipe(asked.config)
    opened = {}
    for name in asked.checkpoints:
        backbone = open_backbone(name, asked.config, asked.how)
        extractor = Extractor(backbone, asked.config.data, mesh, out / "features", console)
        yield _ImageTasks(asked, extractor, opened)


@dataclasses.dataclass(frozen=True)
class _ImageTasks:
    """Tasks with the images for each protocol.

    Attributes:
      opened: splits by what was asked for.
    """

    asked: Asked
    extractor: Extractor
    opened: dict[tuple[str, bool], tuple[Split, Split]]

    def __call__(self, protocol: Protocol, options: Any) -> tuple[Task, Any]:
        data, extractor = self.asked.config.data, self.extractor
        if protocol.images:
            data = protocol.images(data, options, extractor.view.size)
            extractor = dataclasses.replace(extractor, whole=True)
        backbone = extractor.backbone
        task = Task(
            backbone.name,
            None,
            None,
            extractor,
            folder=epath.Path("."),  # whoever knows the identity says which
            seed=self.asked.seed,
            model=backbone.model,
            data=data,
            mesh=extractor.mesh,
            view=extractor.view,
        )
        sections = protocol.sets(data, options) if protocol.sets else {"": data}
        sets = {name: self._on(task, each, protocol) for name, each in sections.items()}
        images = [
            (images_identity(split), _answers(split, drawn=protocol.images is not None))
            for each in sets.values()
            for split in (each.train, each.test)
        ]
        at_most = self.asked.train_images, self.asked.test_images
        seen = dataclasses.asdict(extractor.view), digest(images), at_most
        task = dataclasses.replace(task, sets=sets) if protocol.sets else sets[""]
        return task, [backbone.identity, *seen]

    def _on(self, task: Task, data: ConfigDict, protocol: Protocol) -> Task:
        train, test = self._splits(data, protocol.needs != "masks")
        return dataclasses.replace(task, train=train, test=test, data=data, left_out={})

    def _splits(self, data: ConfigDict, labelled: bool) -> tuple[Split, Split]:
        key = data.to_json(), labelled
        if key not in self.opened:
            asked = self.asked
            self.opened[key] = open_splits(
                data,
                train_images=asked.train_images,
                test_images=asked.test_images,
                seed=asked.seed,
                labelled=labelled,
            )
        return self.opened[key]


def _answers(split: Split, drawn: bool) -> Any:
    """What is to be said of its images: labels, or a checksum of masks.

    Args:
      drawn: whether masks come of what the images come of, so that these tell enough.
    """
    if split.labels is not None:
        return split.labels.tolist()
    if drawn or not has_masks(split.source):
        return None
    total = 0
    for index in split.index.tolist():
        mask = np.ascontiguousarray(split.source.mask(index))
        total = zlib.crc32(mask, zlib.crc32(str(mask.shape).encode(), total))
    return total


def _run(protocol: Protocol, options: Any, task: Task) -> dict[str, Any]:
    start = time.monotonic()
    result = dataclasses.asdict(protocol.run(task, options))
    return from_first(
        {
            **_names(protocol, task, result["rows"]),
            "protocol": protocol.name,
            "options": dataclasses.asdict(options),
            "images": task.images,
            "left_out": task.all_left_out(),
            "seed": task.seed,
            "seconds": round(time.monotonic() - start, 1),
            **result,
        }
    )


def _names(protocol: Protocol, task: Task, rows: Mapping[str, Any]) -> dict[str, Any]:
    """What a result calls its backbone and images, and what stands beside for the sake of these."""
    labelled = task.train is None or task.train.labels is not None
    return {
        "checkpoint": task.name,
        "encoder": encoder_name(task.model),
        "data": ", ".join(task.sets) or data_name(task.data, labelled),
        "paper": paper_numbers(protocol.name, task.data, next(iter(rows))),
    }


def data_name(data: ConfigDict | None, labelled: bool) -> str:
    """What tables call the images, such as "imagenet/val"."""
    if data is None:
        return "given features"
    if data.get("validation"):
        return f"{_place(data, data.train_split, labelled)}, held out"
    return _place(data, data.test_split, labelled)


def _place(data: ConfigDict, split: str, labelled: bool) -> str:
    if data.source == "synthetic":
        return f"synthetic {(data.name or LABELS[0]) if labelled else 'masks'}"
    if data.name or data.source not in ("npz", "folder", "array_record"):
        return data.name or data.source
    path = pathlib.PurePath(data.path.replace("{split}", split))
    return path.name if path.suffix else "/".join(path.parts[-2:])


def _out(asked: Asked) -> pathlib.Path:
    if asked.out:
        return local_path(asked.out)
    run = first_run(asked.checkpoints)
    if run is None:
        raise UserError("say where results go: --out=evaluation")
    return local_path(run.folder.parent.parent / "evaluation")
