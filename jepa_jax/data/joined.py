"""Several sources as one, one after the other."""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jepa_jax.data.names import Names
from jepa_jax.data.protocol import Example, Indices, Labels, Source, distinct, has_masks
from jepa_jax.errors import UserError


class JoinedSource:
    """Several sources, one after the other; classes of the same name become one.

    Args:
      labelled: whether to keep labels; by default if there are any. Parts of which only some have
        labels, or names for them, raise UserError.
    """

    def __init__(self, parts: Sequence[Source], labelled: bool | None = None):
        self._parts = parts
        self._starts = [0, *itertools.accumulate(map(len, parts))]
        self.labelled, self.masked = labelled, all(map(has_masks, parts))
        if labelled is None:
            self.labelled = _all_or_none(parts, [part.labelled for part in parts], "label")
        self.classes, self._numbers = None, None  # for each part: its numbers -> those of all
        named = [part.classes is not None for part in parts]
        if self.labelled and _all_or_none(parts, named, "class name"):
            self.classes = tuple(sorted(set().union(*(part.classes for part in parts))))
            number = {name: label for label, name in enumerate(self.classes)}
            self._numbers = [
                np.array([number[name] for name in part.classes], np.int32) for part in parts
            ]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        k, place = self._place(index)
        example = self._parts[k][place]
        if not self.labelled:
            return example._replace(label=None)
        if self._numbers is None or example.label is None:
            return example
        return example._replace(label=int(self._numbers[k][example.label]))

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        k, place = self._place(index)
        return self._parts[k].mask(place)

    @property
    def distinct(self) -> int:
        """How many images there are, if parts repeat theirs."""
        return sum(map(distinct, self._parts))

    @property
    def names(self) -> Names | None:
        """Of the files, if all are image files."""
        parts = [getattr(part, "names", None) for part in self._parts]
        return None if None in parts else Names(itertools.chain(*parts))

    def labels(self, indices: Indices) -> Labels:
        indices = np.asarray(indices)
        part_of_each = np.searchsorted(self._starts, indices, side="right") - 1
        labels = np.empty(len(indices), np.int32)
        for k in np.unique(part_of_each).tolist():
            here = part_of_each == k
            found = self._parts[k].labels(indices[here] - self._starts[k])
            labels[here] = found if self._numbers is None else self._numbers[k][found]
        return labels

    def _place(self, index: int) -> tuple[int, int]:
        """Which part an example is in, and where in it."""
        index = range(len(self))[index]
        k = bisect.bisect_right(self._starts, index) - 1
        return k, index - self._starts[k]


def _all_or_none(parts: Sequence[Source], has: Sequence[bool], what: str) -> bool:
    if any(has) and not all(has):
        name = parts[has.index(False)][0].name
        raise UserError(f"{name} has no {what} but other images have: label all or none")
    return all(has)


def joined(parts: Sequence[Source]) -> Source:
    """The only part as it is, or several as one."""
    return parts[0] if len(parts) == 1 else JoinedSource(parts)
