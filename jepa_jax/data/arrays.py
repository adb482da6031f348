"""Images that are all in memory: scikit-learn's digits, and npz files."""

import importlib.util
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jepa_jax.data.protocol import Example, Indices, Labels
from jepa_jax.errors import UserError


@dataclass(frozen=True)
class ArraySource:
    """Images in an array, with or without the label of each, and of each pixel."""

    name: str
    images: UInt8[np.ndarray, "n H W C"]
    label_of_each: Labels | None = None
    classes: tuple[str, ...] | None = None
    masks: UInt8[np.ndarray, "n H W"] | None = None

    @property
    def labelled(self) -> bool:
        return self.label_of_each is not None

    @property
    def masked(self) -> bool:
        return self.masks is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        label = int(self.label_of_each[index]) if self.labelled else None
        return Example(self.images[index], label, f"{self.name}[{index}]")

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The class of each pixel of an image, 255 where it is not known; only if `masked`."""
        return self.masks[index]

    def labels(self, indices: Indices) -> Labels:
        return self.label_of_each[indices]


def open_digits(data: ConfigDict, split: str) -> ArraySource:
    """scikit-learn's digits: every fifth is held out."""
    if split not in (data.train_split, data.test_split):
        splits = f"{data.train_split!r} and {data.test_split!r}"
        raise UserError(f"digits have no split {split!r}: the config names {splits}")
    # Its file alone: to import scikit-learn takes a second.
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    is_test = np.arange(len(images)) % 5 == 0
    keep = is_test if split == data.test_split else ~is_test
    classes = tuple(map(str, range(10)))
    return ArraySource("digits", images[keep], table[keep, -1].astype(np.int32), classes)


def open_npz(path: Path) -> ArraySource:
    """The `images`, and the `labels` and `masks` if there are any, of an npz file."""
    try:
        # Opened here, since np.load leaves a file open that it can't make sense of.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            keys = file.files
            arrays = {key: file[key] for key in ("images", "labels", "masks") if key in keys}
    except (
        *(OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error),
        RuntimeError,  # encrypted, or compressed in a way that Python doesn't know
    ) as error:
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
        if not 0 <= labels.min() <= labels.max() < 2**31:
            raise UserError(
                f"{path}: labels must be from 0 to {2**31 - 1}, but go from {labels.min()} to "
                f"{labels.max()}: number the classes from 0, or leave `labels` out"
            )
        labels = labels.astype(np.int32)
    masks = arrays.get("masks")
    if masks is not None and (masks.dtype != np.uint8 or masks.shape != images.shape[:3]):
        raise UserError(
            f"{path}: masks must be uint8 {images.shape[:3]}, a class for each pixel, but are"
            f" {masks.dtype} {masks.shape}"
        )
    images = images if images.ndim == 4 else images[..., None]
    return ArraySource(str(path), images, labels, masks=masks)
