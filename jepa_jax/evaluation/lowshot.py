"""Low-shot classification: a linear probe on frozen features that sees few labels."""

import collections
import pathlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.evaluation.checks import check_options
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.evaluation.splits import Split
from jepa_jax.evaluation.task import Protocol, Result, Task


@dataclass(frozen=True)
class Options:
    """How many labels there are.

    Attributes:
      shares: of the images of each class, rounded, one at least.
      per_class: so many images of each class, or all, if there are fewer.
      draws: at random, over which the accuracies are averaged.
      names: a text file, or several, divided by commas, with the names of the images that are seen,
        a line each: a split that others used too, such as SimCLR's 1percent.txt.
      l2: of the linear probe; see `linear_probe_accuracy`.
      layers: how many of the last ones, side by side.
    """

    shares: tuple[float, ...] = (0.01, 0.1)
    per_class: tuple[int, ...] = (1, 5, 10)
    draws: int = 5
    names: str = ""
    l2: float = 1e-3
    layers: int = 1

    def __post_init__(self):
        check_options(self, positive=("shares", "per_class", "draws", "l2", "layers"))
        if max(self.shares, default=0) > 1:
            raise UserError(f"shares={max(self.shares):g}: give shares up to 1")
        if not (self.shares or self.per_class or self.names):
            raise UserError("shares, per_class, names: give one of them")


def run(task: Task, options: Options) -> Result:
    """Accuracies of splits that are given, and means of those drawn. The first row counts."""
    fixed = {name: named(task.train, file) for name, file in _files(options).items()}
    test = task.features(task.test, options.layers)
    rows, details = {}, {}
    for name, chosen in fixed.items():
        x, y = task.features(task.train.take(chosen), options.layers)
        accuracy = linear_probe_accuracy(x, y, *test, l2=options.l2)
        rows[f"{name} ({len(y)} images)"] = {"accuracy": accuracy}
    settings = list(_settings(options))
    several = bool(settings) and options.draws > 1
    if settings:
        x, y = task.features(task.train, options.layers)
        orders = [shuffled(y, task.seed, number) for number in range(options.draws)]
        for name, count in settings:
            draws = [np.concatenate([of[: count(len(of))] for of in order]) for order in orders]
            found = [linear_probe_accuracy(x[i], y[i], *test, l2=options.l2) for i in draws]
            name = f"{name} ({len(draws[0])} images)"
            rows[name] = {"accuracy": float(np.mean(found))}
            if several:
                rows[name]["±"] = statistics.stdev(found)
            details[name] = found
    first = next(iter(rows))
    metric = f"accuracy, mean and deviation of {options.draws} draws" if several else "accuracy"
    return Result(rows[first]["accuracy"], rows, metric, {"draws": details})


def shuffled(labels: Int[np.ndarray, " n"], seed: int, draw: int) -> list[Int[np.ndarray, " m"]]:
    """The images of each class in a random order: of one draw, few are a part of more."""
    rng = np.random.default_rng((seed, draw))
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def named(split: Split, file: pathlib.Path) -> Int[np.ndarray, " n"]:
    """Which images of a split the lines of a file name.

    A line is a file's name, or the end of its path, such as `cat/1.jpg`.

    Raises:
      UserError: if there is no such image, or several, or images have no names.
    """
    lines = _lines(file)
    names: Sequence[str] | None = getattr(split.source, "names", None)
    if names is None or not lines:
        why = f"images of split {split.name!r} have no file names" if lines else "it is empty"
        raise UserError(f"lowshot.names={file}: {why}; give names of files in folders or archives")
    places: dict[str, list[int]] = collections.defaultdict(list)
    lengths = {line.count("/") + 1 for line in lines}
    for row, index in enumerate(split.index.tolist()):
        parts = names[index].split("/")
        for length in lengths:
            places["/".join(parts[-length:])].append(row)
    for line in lines:
        found = len(places.get(line, ()))
        if found != 1:
            near = did_you_mean(line, list(places)[:10_000]) if not found else ""
            raise UserError(
                f"{file} names {line!r}, of which split {split.name!r} has {found}{near}"
            )
    return np.unique([places[line][0] for line in lines])


def reads(options: Options) -> list[list[str]]:
    """The lines of each file of `names`.

    Raises:
      UserError: if one can't be read.
    """
    return [_lines(file) for file in _files(options).values()]


def _files(options: Options) -> dict[str, pathlib.Path]:
    """As they are given, since files of several folders may be called alike."""
    return {name: pathlib.Path(name).expanduser() for name in options.names.split(",") if name}


def _lines(file: pathlib.Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"lowshot.names={file} can't be read ({error})") from None


def _settings(options: Options) -> Iterator[tuple[str, Callable[[int], int]]]:
    """Name, and how many of so many images of a class."""
    for share in options.shares:
        yield f"{100 * share:g} % of each class", lambda of, share=share: max(1, round(share * of))
    for count in options.per_class:
        yield f"{count} of each class", lambda of, count=count: count


LOWSHOT = Protocol("lowshot", Options, run, reads=reads)
