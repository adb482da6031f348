"""Labelled images of a training and a test split, with one numbering of their classes."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32
from ml_collections import ConfigDict

from jepa_jax.data.sources import Source, no_labels, open_source
from jepa_jax.data.splits import check_overlap, check_splits
from jepa_jax.data.subset import subset
from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_probe_labels

ALL = 2**62  # more images than any split has
HELD_OUT = 0.1  # of the training images, to choose a setting without looking at the test images


@dataclass(frozen=True)
class Split:
    """Some images of a source, in a fixed order.

    Attributes:
      name: as the config calls it.
      index: which examples of the source they are.
      labels: of each, as the training split numbers the classes; None if there are none.
      classes: their names, where known; those of the training split.
    """

    name: str
    source: Source
    index: Int[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"] | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Int[np.ndarray, " m"]) -> "Split":
        """Those of its images, by their place in it."""
        labels = None if self.labels is None else self.labels[rows]
        return Split(self.name, self.source, self.index[rows], labels, self.classes)


def open_splits(
    data: ConfigDict,
    *,
    train: Source | None = None,
    train_images: int = ALL,
    test_images: int = ALL,
    seed: int = 0,
    labelled: bool = True,
    remedy: str = "name images with labels in data.path or data.label_key",
) -> tuple[Split, Split]:
    """The training and the test split of the section `data` of a config.

    Args:
      train: the source of the training split, if it is open already.
      train_images, test_images: at most so many are drawn at random; the same for the same seed.
      labelled: False if they need no labels, and get none.
      remedy: what to do where there are no labels, or of one class only.

    Raises:
      UserError: if a split has no labels, the test split has a class that training lacks, or
        training has one class only; if both have the same images.
    """
    check_splits(data, (data.train_split, data.test_split), "hold some out (data.validation=0.1)")
    train = train or open_source(data, data.train_split)
    test = open_source(data, data.test_split)
    check_overlap(data, data.train_split, data.test_split)
    for name, source in ((data.train_split, train), (data.test_split, test)):
        if labelled and not source.labelled:
            raise UserError(f"{no_labels(data, name)}; {remedy}")
    first = drawn(data.train_split, train, train_images, seed, labelled)
    second = drawn(data.test_split, test, test_images, seed, labelled)
    if not labelled:
        return first, second
    # What is held out at random may be all that there is of a rare class.
    whole = len(first) == len(train) and not data.get("validation")
    return first, matched(first, second, whole, f", or {remedy}")


def drawn(name: str, source: Source, count: int, seed: int, labelled: bool) -> Split:
    """At most so many images of a source, at random; with their labels or without."""
    index = subset(len(source), count, seed)
    labels = source.labels(index) if labelled else None
    return Split(name, source, index, labels, source.classes)


def matched(train: Split, test: Split, whole: bool, remedy: str = "") -> Split:
    """The test split, with the classes numbered as in training.

    Args:
      whole: whether `train` is all there is of training, so that it must have all classes;
        otherwise images of others count as wrong.
      remedy: the end of what to do where training has one class only.

    Raises:
      UserError: if test has a class that training lacks, or training has one only.
    """
    test = _renumbered(test, train)
    check_probe_labels(train.labels, remedy)
    if whole and len(unknown := np.setdiff1d(test.labels, train.labels)):
        names = [str(each if train.classes is None else train.classes[each]) for each in unknown]
        raise UserError(_lacking(test.name, train.name, names))
    return test


def held_out(images: int, seed: int) -> Bool[np.ndarray, " n"]:
    """A tenth of so many training images at random, at least one."""
    apart = np.zeros(images, bool)
    apart[np.random.default_rng(seed).permutation(images)[: max(1, round(HELD_OUT * images))]] = (
        True
    )
    return apart


def _renumbered(split: Split, train: Split) -> Split:
    """Each source numbers its own classes. Those that no label has need not be known."""
    if split.classes is None or split.classes == train.classes:
        return split
    there = {split.classes[label] for label in np.unique(split.labels)}
    if unknown := sorted(there - set(train.classes or ())):
        raise UserError(_lacking(split.name, train.name, unknown))
    number = {name: label for label, name in enumerate(train.classes)}
    numbers = np.array([number.get(name, -1) for name in split.classes], np.int32)
    return Split(split.name, split.source, split.index, numbers[split.labels], train.classes)


def _lacking(split: str, train: str, names: list[str]) -> str:
    more = ", …" if len(names) > 5 else ""
    return (
        f"split {split!r} has classes that {train!r} lacks: {', '.join(names[:5])}{more};"
        " give both the same class folders"
    )
