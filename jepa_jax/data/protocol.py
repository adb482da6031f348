"""What a source of images is: a random-access list of examples, labelled or not."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int, Int32, UInt8

Indices = Int[np.ndarray, " n"]
Labels = Int32[np.ndarray, " n"]


class Example(NamedTuple):
    """One image as it is stored; `name` says in error messages which."""

    image: UInt8[np.ndarray, "H W C"] | bytes  # pixels, or a file's bytes
    label: int | None
    name: str


class Source(Protocol):
    """Examples by index. Reading from several threads is safe, and a source can be pickled.

    Nothing is decoded here. A source may hold millions of records, so that no label is known
    before somebody asks for it: those of chosen examples are cheap in memory and in folders, and
    cost reading the records elsewhere.

    A source that is `masked` has `mask(index)` too: the class of each pixel.
    """

    labelled: bool  # whether all examples have a label; otherwise none has
    classes: tuple[str, ...] | None  # the labels' names, where known

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def labels(self, indices: Indices) -> Labels:
        """The labels of the examples at `indices`. Only for a labelled source."""
        ...


@dataclass(frozen=True)
class View:
    """The beginning of a source that shows another one otherwise; labels stay as they are."""

    source: Source

    @property
    def labelled(self) -> bool:
        return self.source.labelled

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.source.classes

    @property
    def masked(self) -> bool:
        return has_masks(self.source)


def has_masks(source: Source) -> bool:
    """Whether each of its images has a mask."""
    return getattr(source, "masked", False)


def distinct(source: Source) -> int:
    """How many images it holds, of which a mixture may repeat some."""
    return getattr(source, "distinct", len(source))
