"""Features that lie in two files, of whatever backbone, as a task for protocols."""

import dataclasses
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath

from jepa_jax.data.subset import subset
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import Features
from jepa_jax.evaluation.features_file import Content, read
from jepa_jax.evaluation.splits import Split, matched
from jepa_jax.evaluation.task import Task


@dataclasses.dataclass(frozen=True)
class Given:
    """What `Task.extract` is, where features are given.

    Attributes:
      values: by the name of the split.
    """

    values: dict[str, np.ndarray]

    def __call__(self, split: Split, layers: int = 1, patches: bool = False) -> Features:
        """Raises UserError where other layers are asked for, or patches that are not there."""
        values = self.values[split.name]
        if layers != 1:
            raise UserError(
                f"{split.name} is taken for one layer: set that protocol's layers to 1, as in"
                " --set=linear_sweep.layers=1"
            )
        if patches and values.ndim == 2:
            raise UserError(f"{split.name} holds no features of patches: extract them into a file")
        found = values[split.index]
        return Features(found if patches or found.ndim == 2 else found.mean(1), split.index)


def given_task(
    names: str, folder: epath.Path, mesh: jax.sharding.Mesh, counts: tuple[int, int], seed: int
) -> tuple[Task, Any]:
    """The task of "train.npz,test.npz", and what tells it from others.

    Args:
      counts: at most so many images of each are drawn at random.

    Raises:
      UserError: if they are no two files of features with labels that go together.
    """
    files = [pathlib.Path(name).expanduser() for name in names.split(",") if name]
    if len(files) != 2:
        raise UserError(f"--features={names}: name two files, as in train.npz,test.npz")
    if files[0] == files[1]:
        raise UserError(f"--features={names}: name another file of test images")
    contents = [read(file) for file in files]
    train, test = (
        _split(file, content, count, seed)
        for file, content, count in zip(files, contents, counts, strict=True)
    )
    test = matched(train, test, whole=len(train) == len(contents[0].features))
    values = {str(file): each.features for file, each in zip(files, contents, strict=True)}
    identity = [_digest(values[each.name], each.index, each.labels) for each in (train, test)]
    name = " and ".join(map(str, files))
    return Task(name, train, test, Given(values), folder, seed, mesh=mesh), identity


def _split(file: pathlib.Path, content: Content, count: int, seed: int) -> Split:
    if content.labels is None:
        raise UserError(f"{file} has no labels: add an array 'labels' with a number for each image")
    labels = content.labels.astype(np.int32)
    index = subset(len(labels), count, seed)
    return Split(str(file), None, index, labels[index], content.classes)


def _digest(*arrays: np.ndarray) -> str:
    total = 0
    for array in arrays:
        total = zlib.crc32(
            np.ascontiguousarray(array), zlib.crc32(str(array.shape).encode(), total)
        )
    return f"{total:08x}"
