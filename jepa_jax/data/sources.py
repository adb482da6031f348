"""Where images come from: each source is a random-access list of examples.

Nothing is decoded here, and the labels of all the examples are known without reading an image.
"""

import bisect
import itertools
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int32, UInt8
from ml_collections import ConfigDict

from jepa_jax.data import files, paths
from jepa_jax.errors import UserError


class Example(NamedTuple):
    """One image as it is stored; `name` says in error messages which."""

    image: UInt8[np.ndarray, "H W C"] | bytes  # pixels, or a file's bytes
    label: int | None
    name: str


class Source(Protocol):
    """Examples by index. Reading from several threads is safe, and a source can be pickled."""

    labels: Int32[np.ndarray, " n"] | None  # of all the examples; None if there are none
    classes: tuple[str, ...] | None  # the labels' names, where known

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_source(data: ConfigDict, split: str) -> Source:
    """The images of one split, as the section `data` of a config says.

    * `digits`: scikit-learn's 1,797 handwritten digits of 8×8; every fifth, from the first on,
      is in `data.test_split`, the rest in `data.train_split`.
    * `npz`: files with `images`, uint8 (n, H, W) or (n, H, W, C), and perhaps `labels`,
      integers (n,).
    * `folder`: image files in a folder or a zip file, in class folders or all in one, which
      gives no labels. Images beside class folders are an error.

    `data.path` may name several (see `paths.find`); they are joined, and classes of the same
    name become one.

    Raises UserError, in one line, for whatever can't be read.
    """
    if not split:
        raise UserError("no split to open: name it in data.train_split or data.test_split")
    match data.source:
        case "digits":
            return _digits(data, split)
        case "npz":
            parts = [_npz(path) for path in paths.find(data.path, split)]
        case "folder":
            parts = [FileSource(files.open_files(p)) for p in paths.find(data.path, split)]
        case other:
            raise UserError(f"data.source {other!r} is unknown: digits, npz or folder")
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


@dataclass(frozen=True)
class ArraySource:
    """Images that are all in memory."""

    name: str
    images: UInt8[np.ndarray, "n H W C"]
    labels: Int32[np.ndarray, " n"] | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        label = None if self.labels is None else int(self.labels[index])
        return Example(self.images[index], label, f"{self.name}[{index}]")


class FileSource:
    """Image files; the bytes are read when an example is asked for."""

    def __init__(self, found: files.Folder | files.Archive):
        if not found.names:
            kinds = " ".join(files.SUFFIXES)
            raise UserError(f"{found.path} holds no images: put some there ({kinds})")
        self._files = found
        self.labels = self.classes = None
        if (classes := files.class_of_each(found.names, found.path)) is not None:
            names, labels = np.unique(classes, return_inverse=True)
            self.classes, self.labels = tuple(names.tolist()), labels.astype(np.int32)

    def __len__(self) -> int:
        return len(self._files.names)

    def __getitem__(self, index: int) -> Example:
        name = self._files.names[index]
        label = None if self.labels is None else int(self.labels[index])
        return Example(self._files.read(name), label, f"{self._files.path}/{name}")


class JoinedSource:
    """Several sources, one after the other, with the union of their classes."""

    def __init__(self, parts: Sequence[Source]):
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))
        self.labels = self.classes = None
        labelled = [part.labels is not None for part in parts]
        if not any(labelled):
            return
        if not all(labelled):
            name = parts[labelled.index(False)][0].name
            raise UserError(f"{name} has no label but other images have: label all or none")
        labels = [part.labels for part in parts]
        if parts[0].classes is not None:
            self.classes = tuple(sorted(set().union(*(part.classes for part in parts))))
            labels = [
                np.array([self.classes.index(name) for name in part.classes])[part.labels]
                for part in parts
            ]
        self.labels = np.concatenate(labels).astype(np.int32)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        k = bisect.bisect_right(self._ends, index)
        example = self._parts[k][index - self._ends[k] + len(self._parts[k])]
        return example if self.labels is None else example._replace(label=int(self.labels[index]))


def _digits(data: ConfigDict, split: str) -> ArraySource:
    from sklearn.datasets import load_digits  # takes a second

    if split not in (data.train_split, data.test_split):
        splits = f"{data.train_split!r} and {data.test_split!r}"
        raise UserError(f"digits have no split {split!r}: the config names {splits}")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    is_test = np.arange(len(images)) % 5 == 0
    keep = is_test if split == data.test_split else ~is_test
    classes = tuple(str(name) for name in digits.target_names)
    return ArraySource("digits", images[keep], digits.target[keep].astype(np.int32), classes)


def _npz(path: Path) -> ArraySource:
    try:
        # Opened here, since np.load leaves a file open that it can't make sense of.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            keys = file.files
            arrays = {key: file[key] for key in ("images", "labels") if key in keys}
    except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        message = f"{path} isn't a whole npz file of plain arrays: make it with np.savez"
        raise UserError(message) from error
    if "images" not in arrays:
        raise UserError(f"{path} has no array 'images', only {keys}: rename the one that is meant")
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise UserError(
            f"{path}: images must be uint8 (n, H, W) or (n, H, W, C), none of them 0, "
            f"but are {images.dtype} {images.shape}"
        )
    if labels is not None:
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"{path}: labels must be integers, one for each of the {len(images)} images, "
                f"but are {labels.dtype} {labels.shape}"
            )
        labels = labels.astype(np.int32)
    return ArraySource(str(path), images if images.ndim == 4 else images[..., None], labels)
