"""Transfer: frozen features on other images than those of the training, several sets at once."""

import dataclasses

from ml_collections import ConfigDict

from jepa_jax.data.sources import other_images
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.evaluation.knn import KNN
from jepa_jax.evaluation.linear import LINEAR
from jepa_jax.evaluation.linear_sweep import LINEAR_SWEEP
from jepa_jax.evaluation.paper import encoder_name, paper_numbers
from jepa_jax.evaluation.task import Protocol, Result, Task

# What the paper transfers to (table 3). Places205 is none of TFDS's: it lies in class folders.
KNOWN = {
    "cifar100": {"source": "tfds", "name": "cifar100", "test_split": "test"},
    "places205": {"source": "folder", "path": "places205/{split}", "test_split": "val"},
    "inat18": {"source": "tfds", "name": "i_naturalist2018", "test_split": "validation"},
}
BY = {protocol.name: protocol for protocol in (KNN, LINEAR, LINEAR_SWEEP)}


@dataclasses.dataclass(frozen=True)
class Options:
    """To what, and how it is evaluated.

    Attributes:
      data: "cifar100", "places205", "inat18", or other names of data sets of TFDS; with another
        `source`, paths, in which {split} is filled in.
      by: the protocols, of which the first counts: knn, linear, linear_sweep.
      source: where images come from; see `open_source`.
      folder: in which the data lie; empty: TFDS's own, or the current one.
      train_split, test_split: their names, for all data but the three.
      label_key: of TFDS data with several labels.
    """

    data: tuple[str, ...] = ("cifar100",)
    by: tuple[str, ...] = ("linear",)
    source: str = "tfds"
    folder: str = ""
    train_split: str = "train"
    test_split: str = "test"
    label_key: str = ""

    def __post_init__(self):
        if unknown := [name for name in self.by if name not in BY]:
            near = did_you_mean(unknown[0], BY)
            raise UserError(f"by={unknown[0]} is none of {', '.join(BY)}{near}")
        if not self.data or not self.by:
            raise UserError("data, by: give one of each at least")


def run(task: Task, options: Options) -> Result:
    """Accuracies by data set and protocol, and the paper's; the mean of the first one counts."""
    rows, details = {}, {}
    for name, there in task.sets.items():
        for by in options.by:
            found = BY[by].run(there, BY[by].options())
            row = rows[f"{name}, {by}"] = {"accuracy": found.best}
            for encoder, number in paper_numbers(by, there.data).items():
                mark = "" if encoder == encoder_name(task.model) else f" ({encoder})"
                row[f"paper{mark}"] = number / 100
            details[f"{name}, {by}"] = dataclasses.asdict(found) | {"images": there.images}
    first = [rows[f"{name}, {options.by[0]}"]["accuracy"] for name in task.sets]
    mean = sum(first) / len(first)
    metric = "accuracy" if len(first) == 1 else f"accuracy, mean by {options.by[0]}"
    return Result(mean, rows, metric, details)


def data_section(data: ConfigDict, name: str, options: Options) -> ConfigDict:
    """The section `data` of a config, for another data set."""
    other = {"source": options.source, "test_split": options.test_split}
    other |= {"name": name} if options.source == "tfds" else {"path": name}
    other |= {"train_split": options.train_split, "label_key": options.label_key or None}
    if name in KNOWN:
        other |= {"path": "", "train_split": "train"} | KNOWN[name]
    path = other.get("path", "")
    other["path"] = f"{options.folder}/{path}".rstrip("/") if options.folder else path
    return other_images(data, **other)


def sections(data: ConfigDict, options: Options) -> dict[str, ConfigDict]:
    """The section `data` for each of the data sets."""
    return {name: data_section(data, name, options) for name in options.data}


TRANSFER = Protocol("transfer", Options, run, sets=sections)
