"""Whether splits are different images, as far as their names and places tell."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jepa_jax.data import mixture, paths
from jepa_jax.errors import UserError

SPLITS = {"train", "training", "val", "valid", "validation", "test"}  # no names of classes
BY_PATH = ("npz", "folder", "array_record")  # sources of which a split is what data.path names


def check_splits(data: ConfigDict, splits: Sequence[str], remedy: str) -> None:
    """Raises UserError if two of the splits are the same images.

    Args:
      data: the section of a config that names the source.
      remedy: what to do if there is no other split.
    """
    if data.source != "mixture":
        _check(data, splits, remedy, "data")
        return
    for i, part in enumerate(mixture.parts(data)):
        names = [mixture.split_in(part, data, split) for split in splits]
        _check(part.data, names, remedy, f"data.mixture[{i}]")


def _check(data: ConfigDict, splits: Sequence[str], remedy: str, where: str) -> None:
    if data.source == "tfds" and "{split}" in data.path:
        raise UserError(
            f"{where}.path={data.path!r} has {{split}}, but TFDS keeps all splits in one folder:"
            " name its data_dir, or '' for TFDS's own"
        )
    counts = Counter(filter(None, splits))  # a part of a mixture may lack some
    by_path = data.source in BY_PATH
    if by_path and len(counts) > 1 and not data.get("validation") and "{split}" not in data.path:
        raise UserError(
            f"{where}.path={data.path!r} has no {{split}}, so {' and '.join(map(repr, counts))}"
            f" would be the same images: name the splits with {{split}}, or {remedy}"
        )
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{where} has the split {twice[0]!r} twice: name another in place of one, or none"
        )


def check_classes(classes: Sequence[str] | None, path: str, remedy: str) -> None:
    """Raises UserError if the class folders in a path are splits; the remedy says what to name."""
    if classes and set(classes) <= SPLITS:
        raise UserError(f"{path} has no classes but splits in it: {remedy}")


class _Piece(NamedTuple):
    """A file or folder, or the records of it from `start` up to `stop`."""

    path: Path
    start: float = 0
    stop: float = math.inf


def check_overlap(data: ConfigDict, train: str, test: str) -> None:
    """Raises UserError if two splits that can be opened have files or records in common.

    What lies in a folder is not listed: it is the folder that counts.
    """
    if data.get("validation"):  # held out of the training split, image by image
        return
    one, other = list(_pieces(data, train)), list(_pieces(data, test))
    if shared := _shared(one, other) or _shared(other, one):
        raise UserError(
            f"{train!r} and {test!r} would be the same images, as both have those of {shared}:"
            " hold others out, in data.test_split or data.path"
        )


def _pieces(data: ConfigDict, split: str) -> Iterator[_Piece]:
    if data.source == "mixture":
        for part in mixture.parts(data):
            if name := mixture.split_in(part, data, split):
                yield from _pieces(part.data, name)
    elif data.source in BY_PATH:
        yield from (_Piece(path.resolve()) for path in paths.find(data.path, split))
    elif data.source == "tfds":
        from jepa_jax.data.tfds import find_shards  # slow to import

        for shard in find_shards(data, split):
            path = Path(shard.filename).resolve()
            yield _Piece(path, shard.skip, shard.skip + shard.take)


def _shared(outer: Iterable[_Piece], inner: Iterable[_Piece]) -> Path | None:
    """What is in both, of the inner ones: it may be the same, or lie in a folder of the outer."""
    there = defaultdict(list)
    for piece in outer:
        there[piece.path].append(piece)
    for piece in inner:
        for path in (piece.path, *piece.path.parents):
            for other in there.get(path, ()):
                if max(piece.start, other.start) < min(piece.stop, other.stop):
                    return piece.path
    return None
