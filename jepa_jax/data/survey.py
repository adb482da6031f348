"""What a source holds: sizes, colours, classes, duplicates and files that can't be read."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence

import grain
import numpy as np

from jepa_jax.data.decoding import look
from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.resizing import Pixels
from jepa_jax.data.sources import Source
from jepa_jax.errors import UserError

PERCENTILES = (0, 5, 50, 95, 100)
ROWS = 64  # of pixels, that are added up at a time


@dataclasses.dataclass(frozen=True)
class Survey:
    """Of the examples that were looked at; those that can't be read count only in `broken`."""

    images: int
    heights: np.ndarray  # pixels, at PERCENTILES
    widths: np.ndarray
    aspects: np.ndarray  # width / height
    mean: np.ndarray  # (C,) of pixels in 0..1; each image counts the same
    std: np.ndarray
    classes: dict[str, int]  # images of each; empty if there are no labels
    duplicates: list[list[str]]  # names of examples with the same bytes
    broken: list[str]  # why each can't be read


def survey(source: Source, indices: Sequence[int], channels: int, threads: int) -> Survey:
    """Looks at the examples at `indices`.

    Raises:
      UserError: if none of them can be read.
    """

    def report(index: int) -> tuple | str:
        try:
            example = source[int(index)]
            raw = example.image
            digest = hashlib.sha256(raw if isinstance(raw, bytes) else raw.tobytes()).digest()
            size, pixels = look(example, channels)
        except BLAMELESS:
            raise
        except UserError as error:
            return str(error)
        return example.name, example.label, digest, size, *_moments(pixels)

    ahead = grain.ReadOptions(threads, prefetch_buffer_size=2 * threads)
    reports = list(grain.MapDataset.source(indices).map(report).to_iter_dataset(ahead))
    broken = [report for report in reports if isinstance(report, str)]
    sound = [report for report in reports if not isinstance(report, str)]
    if not sound:
        raise UserError(f"none of {len(reports)} images can be read, the first: {broken[0]}")
    names, labels, digests, shapes, means, squares = zip(*sound, strict=True)
    height, width = np.array(shapes, np.float64).T
    mean = np.mean(means, 0)
    return Survey(
        images=len(sound),
        heights=np.percentile(height, PERCENTILES),
        widths=np.percentile(width, PERCENTILES),
        aspects=np.percentile(width / height, PERCENTILES),
        mean=mean,
        std=np.sqrt(np.maximum(np.mean(squares, 0) - mean**2, 0)),
        classes=_count(labels, source.classes),
        duplicates=_groups(names, digests),
        broken=broken,
    )


def _moments(pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """(C,) means of the values, in 0..1, and of their squares; no large copies are made."""
    total = np.zeros((2, pixels.shape[2]), np.uint64)
    for start in range(0, len(pixels), ROWS):
        values = pixels[start : start + ROWS].astype(np.uint32)
        total += [values.sum((0, 1), dtype=np.uint64), np.square(values).sum((0, 1), np.uint64)]
    mean, square = total / pixels[..., 0].size
    return mean / 255, square / 255**2


def _count(labels: Sequence[int | None], classes: Sequence[str] | None) -> dict[str, int]:
    counts = collections.Counter(label for label in labels if label is not None)
    return {classes[label] if classes else str(label): counts[label] for label in sorted(counts)}


def _groups(names: Sequence[str], digests: Sequence[bytes]) -> list[list[str]]:
    groups = collections.defaultdict(list)
    for name, digest in zip(names, digests, strict=True):
        groups[digest].append(name)
    return [group for group in groups.values() if len(group) > 1]
