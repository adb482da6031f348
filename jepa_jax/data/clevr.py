"""CLEVR as TensorFlow Datasets prepares it, with the labels that VTAB makes of its scenes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from jepa_jax.data.protocol import Example, Indices, Labels
from jepa_jax.data.records import RecordSource
from jepa_jax.data.synthetic import COUNTS, EDGES
from jepa_jax.data.tfds import open_tfds
from jepa_jax.errors import UserError, did_you_mean

POSITIONS = "objects/pixel_coords"  # x, y in pixels and the depth of each object


def count(depths: np.ndarray) -> int:
    """The class of VTAB's `count_all`: 0 for three objects, … 7 for ten."""
    return len(depths) - COUNTS[0]


def distance(depths: np.ndarray) -> int:
    """The class of VTAB's `closest_object_distance`, 0 to 5; a depth on a limit is below it."""
    return int(np.searchsorted(EDGES, depths.min(), side="left"))


LABELS: Mapping[str, tuple[Callable[[np.ndarray], int], int]] = {
    "count": (count, len(COUNTS)),
    "distance": (distance, len(EDGES) + 1),
}


@dataclass(frozen=True)
class ClevrSource:
    """The images of a split.

    Attributes:
      label: "count" or "distance".
    """

    records: RecordSource
    label: str

    labelled = True
    classes = None  # they are numbers, and the same in all splits

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        example = self.records[index]
        return example._replace(label=self._label(index))

    def labels(self, indices: Indices) -> Labels:
        return np.array([self._label(int(index)) for index in indices], np.int32)

    def _label(self, index: int) -> int:
        entries, name = self.records.entries(index)
        numbers = np.array(entries[POSITIONS].float_list.value)
        function, classes = LABELS[self.label]
        if len(numbers) and len(numbers) % 3 == 0:
            label = function(numbers.reshape(-1, 3)[:, 2])
            if 0 <= label < classes:
                return label
        raise UserError(f"{name} has no scene as CLEVR's: prepare the data set again")


def open_clevr(data: ConfigDict, split: str) -> ClevrSource:
    """A split of TFDS's `data.name` ("clevr", perhaps with a version) below `data.path`.

    `data.label_key` says what the labels are: "count" (the default) or "distance".
    """
    label = data.label_key or "count"
    if label not in LABELS:
        known = f"{' or '.join(LABELS)}{did_you_mean(label, LABELS)}"
        raise UserError(f"data.label_key {label!r} is no label of CLEVR: say {known}")
    data = data.copy_and_resolve_references()
    data.update({"name": data.name or "clevr", "label_key": None})
    return ClevrSource(open_tfds(data, split), label)
