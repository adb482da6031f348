"""What a protocol of the evaluation gets, and what it gives back."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Int32
from ml_collections import ConfigDict

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import Features
from jepa_jax.evaluation.splits import Split
from jepa_jax.pretrained import Pretrained


@dataclasses.dataclass(frozen=True)
class Task:
    """A backbone, and labelled images that it is to be good for.

    Attributes:
      name: of the backbone, for tables.
      train, test: None for a protocol of several data sets.
      extract: split, number of layers and whether of every patch -> features, from the cache where
        they are there; see `features`.
      folder: for what a protocol keeps to go on with after a stop; for this backbone, these
        images and these options alone. It need not exist.
      seed: of whatever the protocol draws at random.
      model: the encoder itself, with `params` and the `view` of images; None where there are only
        features, or it is one of another framework.
      data: where the images come from; None where features were given.
      mesh: whose devices share the work.
      view: what is seen of an image; None where features were given.
      left_out: of each split by name, the examples that could not be read.
      sets: of a protocol of several data sets by name: this task with the images of each.
    """

    name: str
    train: Split | None
    test: Split | None
    extract: Callable[[Split, int, bool], Features]
    folder: epath.Path
    seed: int = 0
    model: Pretrained | None = None
    data: ConfigDict | None = None
    mesh: jax.sharding.Mesh | None = None
    view: EvalView | None = None
    left_out: dict[str, set[int]] = dataclasses.field(default_factory=dict)
    sets: Mapping[str, "Task"] = dataclasses.field(default_factory=dict)

    def features(
        self, split: Split, layers: int = 1, patches: bool = False
    ) -> tuple[Float32[np.ndarray, "n ..."], Int32[np.ndarray, " n"]]:
        """Features and labels of the images of a split that can be read.

        Args:
          layers: so many of the last ones side by side, the last one at the end.
          patches: (n, N, layers · D), one vector a patch, instead of their average (n, layers · D).

        Returns:
          The features may lie on disk, memory-mapped: what needs only some of them at a time takes
          them so.

        Raises:
          UserError: if more than `data.broken_share` of the images cannot be read.
        """
        found = self.extract(split, layers, patches)
        sound = self.sound(split, found.index)
        if sound.all():
            return found.values, split.labels
        return found.values[sound], split.labels[sound]

    def sound(self, split: Split, index: Int32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which images of a split could be read; the others go into `left_out`.

        Args:
          index: the examples that were read: neighbours in place of those that could not be.

        Raises:
          UserError: as `features`.
        """
        sound = index == split.index
        lost, share = split.index[~sound].tolist(), self.data.broken_share if self.data else 1.0
        if len(lost) > share * len(split):
            raise UserError(
                f"{len(lost)} of {len(split)} images of split {split.name!r} can't be read, more"
                f" than data.broken_share={share:g} allows: launch/inspect.py data names some"
            )
        self.left_out.setdefault(split.name, set()).update(lost)
        return sound

    @property
    def images(self) -> dict[str, int]:
        """How many images of each split count: all but those that could not be read."""
        splits = {"train": self.train, "test": self.test} if self.train else {}
        return {
            name: len(split) - len(self.left_out.get(split.name, ()))
            for name, split in splits.items()
        }

    def all_left_out(self) -> list[tuple[str, str, int]]:
        """(data set, split, example) of each image that could not be read; "" is the task's own."""
        return [
            (name, split, example)
            for name, task in {"": self, **self.sets}.items()
            for split, lost in task.left_out.items()
            for example in sorted(lost)
        ]

    def mended(self, left_out: Iterable[tuple[str, str, int]]) -> bool:
        """Whether one of them, as `all_left_out` tells them, can be read now."""
        for name, split, example in left_out:
            task = self.sets.get(name, self)
            images = task.train if split == task.train.name else task.test
            with contextlib.suppress(UserError):
                task.view(images.source[example])
                return True
        return False

    @property
    def classes(self) -> int:
        """How many there are: labels are below it."""
        return len(self.train.classes or ()) or int(self.train.labels.max()) + 1


@dataclasses.dataclass(frozen=True)
class Result:
    """What a protocol found.

    Attributes:
      best: the number that stands for it: a share in 0..1, shown as %.
      rows: for the table: setting -> column -> share. The rows and columns may be any.
      metric: what `best` is.
      details: anything else that is worth keeping, as JSON.
    """

    best: float
    rows: Mapping[str, Mapping[str, float]]
    metric: str = "accuracy"
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to evaluate.

    Attributes:
      options: a dataclass of what can be set, all with defaults: numbers, texts, truth values or
        tuples of one of them. It raises UserError, which begins with the option's name, for what
        cannot be.
      run: (Task, options) -> Result. With several processes all of them run it, and what the first
        finds counts.
      needs: "features"; "model" if `Task.model` must be there; "masks" if the images have masks,
        and need no labels.
      images: (section `data` of a recipe, options, size) -> the section of images of its own, of
        which the encoder sees the whole at that size; None if it takes those of the recipe.
      sets: (section `data` of a recipe, options) -> sections of several data sets, by name; None if
        it is about one.
      reads: options -> what the files hold that these name, as JSON, to tell results apart; None if
        they name none.
    """

    name: str
    options: type
    run: Callable[[Task, Any], Result]
    needs: str = "features"
    images: Callable[[ConfigDict, Any, tuple[int, int]], ConfigDict] | None = None
    sets: Callable[[ConfigDict, Any], Mapping[str, ConfigDict]] | None = None
    reads: Callable[[Any], Any] | None = None
