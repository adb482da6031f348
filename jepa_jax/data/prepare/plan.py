"""Which examples go to which shard: a function of the source and of what is asked for."""

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.data.prepare.request import HELD_OUT, Request
from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.sources import Example, Source, open_source
from jepa_jax.data.splits import check_classes, check_splits
from jepa_jax.data.subset import subset
from jepa_jax.errors import UserError

SAMPLE = 64  # examples of a split that are looked at beforehand
SHARDS = 16  # at least, for many workers to share and for a stop to cost little,
SHARD_EXAMPLES = 1000  # unless they had fewer examples than these


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of the data set.

    Attributes:
      order: indices into the source, in the order in which the examples are written.
      labels: what the source's labels become; None: they stay.
      shards: number of files.
      content: a digest of some of its examples.
    """

    name: str
    source: Source
    order: Int64[np.ndarray, " n"]
    labels: tuple[int, ...] | None
    shards: int
    content: str


class Shard(NamedTuple):
    """The number-th file of a split."""

    split: str
    number: int
    file: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What there is to write.

    Attributes:
      classes: names of the labels, if they have some.
      channels: of the images, 1 or 3.
      beside: a prefix that the names of the examples lose, so that they say nothing of where the
        source lies.
    """

    name: str
    splits: dict[str, Split]
    labelled: bool
    classes: tuple[str, ...] | None
    channels: int
    encoding: Encoding
    beside: str

    @property
    def shards(self) -> list[Shard]:
        return [
            Shard(
                split.name, k, f"{self.name}-{split.name}.array_record-{k:05}-of-{split.shards:05}"
            )
            for split in self.splits.values()
            for k in range(split.shards)
        ]

    @property
    def images(self) -> int:
        return sum(len(split.order) for split in self.splits.values())

    def indices(self, shard: Shard) -> Int64[np.ndarray, " n"]:
        """The examples of a shard, as indices into the source of its split."""
        split = self.splits[shard.split]
        return np.array_split(split.order, split.shards)[shard.number]

    def tell(self, shard: Shard, example: Example) -> tuple[str, int | None]:
        """Name and label of an example in the data set: -1 if only other splits have labels."""
        name, label = example.name.removeprefix(self.beside), example.label
        if label is None:
            return name, -1 if self.labelled else None
        labels = self.splits[shard.split].labels
        return name, label if labels is None else labels[label]

    def found(self) -> dict[str, Any]:
        """By what to tell if the source is still the same."""
        found = {"classes": None if self.classes is None else len(self.classes)}
        for split in self.splits.values():
            found[f"{split.name} images"] = len(split.order)
            found[f"{split.name} shards"] = split.shards
            found[f"{split.name} content"] = split.content
        return found


def make_plan(request: Request) -> Plan:
    """Opens the source and shares its examples out, in the source's order.

    So a run gets the same batches from the data set as from the source: the loader shuffles.

    Raises:
      UserError: for what can't be read, or can't be meant.
    """
    check_splits(request.data, request.splits, "give one of them in --splits")
    sources = {name: open_source(request.data, name) for name in request.splits}
    orders = {name: np.arange(len(source)) for name, source in sources.items()}
    if request.held_out:
        [(name, source)] = sources.items()
        count = max(1, round(request.held_out * len(source)))
        if count >= len(source):
            raise UserError(f"--held_out={request.held_out:g} leaves none of {len(source)} images")
        sources[HELD_OUT] = source
        held_out = subset(len(source), count, seed=0)
        orders = {name: np.delete(orders[name], held_out), HELD_OUT: held_out}

    each = {source.classes for source in sources.values() if source.classes is not None}
    remedy = "give --from=WHERE/{split}, where WHERE has a folder or an archive for each"
    for classes in each:
        check_classes(classes, request.data.path, remedy)
    classes = each.pop() if len(each) == 1 else tuple(sorted(set().union(*each))) or None
    _check_names(classes or (), request.data.path)
    number = {name: label for label, name in enumerate(classes or ())}

    splits, samples = {}, []
    for name, source in sources.items():
        samples.append(sample := _Sample(source, orders[name], request.encoding))
        by_size = math.ceil(len(orders[name]) * sample.size / (request.shard_mb * 1e6))
        by_work = min(SHARDS, len(orders[name]) // SHARD_EXAMPLES)
        splits[name] = Split(
            name=name,
            source=source,
            order=orders[name],
            labels=source.classes and tuple(map(number.get, source.classes)),
            shards=min(len(orders[name]), max(1, by_size, by_work)),
            content=sample.digest,
        )
    return Plan(
        name=request.to.name,
        splits=splits,
        labelled=any(sample.labelled for sample in samples),
        classes=classes,
        channels=1 if all(sample.grey for sample in samples) else 3,
        encoding=request.encoding,
        beside=_beside(request.data.path),
    )


def _check_names(classes: Sequence[str], path: str) -> None:
    """Whether all can stand in TFDS's list of names: UTF-8, a line each, stripped of spaces."""
    for name in classes:
        is_text = name.encode(errors="ignore").decode() == name
        if not is_text or name.strip().splitlines() != [name]:
            raise UserError(
                f"the class folder {name!r} of {path} can't stand in a list of names: rename it,"
                " in UTF-8, without line breaks and spaces around it"
            )


class _Sample:
    """A look at some examples of an order, at random.

    Attributes:
      size: mean bytes of an image as it will be stored.
      digest: of names, labels and contents.
    """

    def __init__(self, source: Source, order: Int64[np.ndarray, " n"], encoding: Encoding):
        self.labelled, self.grey = source.classes is not None, True
        sizes, digest = [], hashlib.sha256(repr(source.classes).encode())
        for index in order[subset(len(order), SAMPLE, seed=0)].tolist():
            try:
                image, label, name = example = source[index]
                digest.update(os.fsencode(f"{name} {label} "))
                digest.update(bytes(image))
                self.labelled |= label is not None
                self.grey &= isinstance(image, np.ndarray) and image.shape[2] == 1
                sizes.append(len(encoding(example)))
            except BLAMELESS:
                raise
            except UserError:  # it will be met again, and left out
                continue
        self.size = sum(sizes) / max(1, len(sizes))
        self.digest = digest.hexdigest()[:16]


def _beside(template: str) -> str:
    """The folder in which the source lies, with a '/'.

    >>> _beside("data/photos/{split}"), _beside("data/photos_*.zip"), _beside("photos.zip")
    ('data/photos/', 'data/', '')
    """
    fixed = re.split(r"[*?\[{]", os.path.expanduser(template))[0]
    folder = os.path.dirname(fixed)
    return f"{os.path.normpath(folder)}/" if folder else ""
