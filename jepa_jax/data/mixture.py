"""Sources mixed by weight: what a recipe writes in `data.mixture`, and the source it makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jepa_jax.data.joined import JoinedSource
from jepa_jax.data.protocol import Example, Indices, Labels, Source, View
from jepa_jax.errors import UserError, did_you_mean

# What a part may say otherwise than `data` does; `weight`, by default 1, is its alone.
KEYS = ("source", "path", "name", "image_key", "label_key", "train_split", "test_split")

LIGHTEST, HEAVIEST = 1e-6, 1e9  # of the weights
LONGEST = 10**12  # images of an epoch: more than anybody sees


class Part(NamedTuple):
    """One part of a mixture: a section `data` of its own, and its weight."""

    data: ConfigDict
    weight: float


def parts(data: ConfigDict) -> list[Part]:
    """The parts that `data.mixture` names. What is wrong with it raises UserError."""
    if not data.mixture:
        raise UserError(
            'data.mixture is empty: list its parts, as in ({"source": "folder", "path": '
            '"photos/{split}", "weight": 2.0}, …)'
        )
    return [_part(data, given, f"data.mixture[{i}]") for i, given in enumerate(data.mixture)]


def _part(data: ConfigDict, given: dict, where: str) -> Part:
    if not isinstance(given, dict | ConfigDict):
        raise UserError(f"{where} is {given!r}: write a dict such as " + '{"source": "digits"}')
    weight = given.get("weight", 1.0)
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not LIGHTEST <= weight <= HEAVIEST:
        wanted = f"a number from {LIGHTEST:g} to {HEAVIEST:g}"
        raise UserError(f"{where} has the weight {weight!r}: make it {wanted}")
    own = data.copy_and_resolve_references()
    own.mixture = ()
    for key, value in given.items():
        if key not in (*KEYS, "weight"):
            message = f"{where} has no key {key!r}: its keys are {', '.join((*KEYS, 'weight'))}"
            raise UserError(message + did_you_mean(key, (*KEYS, "weight")))
        if key != "weight":
            if not isinstance(value, str):
                raise UserError(f"{where}: {key} is {value!r} but must be a text")
            own[key] = value
    if own.source == "mixture":
        raise UserError(f"{where} has no source of its own: add one, as in " + '"source": "folder"')
    return Part(own, weight)


def split_in(part: Part, data: ConfigDict, split: str) -> str:
    """What the part calls the split that `data` calls so; empty if it has none."""
    names = {data.test_split: part.data.test_split, data.train_split: part.data.train_split}
    return names.get(split, split)


@dataclass(frozen=True)
class StretchedSource(View):
    """A source gone through evenly until there are `length` examples, in its order.

    Each comes equally often, or once more; those that do are spread over the whole of it.
    """

    length: int

    def __len__(self) -> int:
        return self.length

    @property
    def distinct(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return self.source[self._place(index)]

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        return self.source.mask(self._place(index))

    def labels(self, indices: Indices) -> Labels:
        indices = np.asarray(indices, np.int64)
        return self.source.labels(indices * len(self.source) // self.length)

    def _place(self, index: int) -> int:
        return range(self.length)[index] * len(self.source) // self.length


def mixed(sources: Sequence[Source], weights: Sequence[float]) -> JoinedSource:
    """A source that each makes up a share of, in proportion to its weight.

    It is as long as it takes to see every image of all of them once: those that have a larger
    weight than their size repeat. Labels go by class name; sources without them leave it
    unlabelled.
    """
    longest = max(len(source) / weight for source, weight in zip(sources, weights, strict=True))
    if not longest * sum(weights) < LONGEST:
        raise UserError(
            f"data.mixture: with the weights {', '.join(f'{weight:g}' for weight in weights)} an"
            f" epoch has {longest * sum(weights):.0e} images: bring them nearer to each other"
        )
    stretched = [
        StretchedSource(source, max(len(source), round(longest * weight)))
        for source, weight in zip(sources, weights, strict=True)
    ]
    return JoinedSource(stretched, labelled=all(source.classes for source in sources))
