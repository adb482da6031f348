"""A validation split of data that has none: some of its training images, held out.

What is tried out is compared on these; the test images are for what is settled.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from jepa_jax.data.names import Names
from jepa_jax.data.protocol import Example, Indices, Labels, Source, View
from jepa_jax.errors import UserError

SEED = 0  # the same images are held out in runs of all seeds


@dataclass(frozen=True)
class ChosenSource(View):
    """Some examples of a source, in its order."""

    index: Indices

    @property
    def names(self) -> Names | None:
        """Of the files, if all are image files."""
        names = getattr(self.source, "names", None)
        return names and Names(names[i] for i in self.index.tolist())

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Example:
        return self.source[int(self.index[index])]

    def labels(self, indices: Indices) -> Labels:
        return self.source.labels(self.index[indices])

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        return self.source.mask(int(self.index[index]))


def without_validation(train: Source, share: float) -> ChosenSource:
    """The training images that are left."""
    return ChosenSource(train, np.flatnonzero(~_held_out(train, share)))


def validation(train: Source, share: float) -> ChosenSource:
    """The training images that are held out."""
    return ChosenSource(train, np.flatnonzero(_held_out(train, share)))


def _held_out(train: Source, share: float) -> np.ndarray:
    """Which are, as a bool for each: so many at random, the same every time."""
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UserError(
            f"data.validation={share:g} of {len(train)} images leaves"
            f" {'none for training' if count else 'none for validation'}: take another share"
        )
    held_out = np.zeros(len(train), bool)
    held_out[np.random.default_rng(SEED).choice(len(train), count, replace=False)] = True
    return held_out
