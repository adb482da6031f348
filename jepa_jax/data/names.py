"""The names of many image files: kept in little memory, and the classes that they tell."""

import os
import posixpath
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jepa_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Names(Sequence):
    """Strings in one block of memory: half of what a list takes, and pickled in an instant.

    Nor do forked processes copy it page by page, as they do what Python counts references to.

    >>> names = Names(["cat/1.png", "dog/2.png"])
    >>> len(names), names[-1]
    (2, 'dog/2.png')
    """

    def __init__(self, names: Iterable[str]):
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        start = self._ends[index - 1] if index else 0
        return self._text[start : self._ends[index]].decode("utf-8", "surrogateescape")


def normal(name: str) -> str:
    """A relative path with '/' between its parts, which old Windows tools write as a backslash.

    >>> normal("./cat\\\\1.png")
    'cat/1.png'
    """
    return posixpath.normpath(name.replace("\\", "/"))


def is_image(name: str) -> bool:
    """Whether a relative path is that of an image, and nothing along it is hidden."""
    return name.lower().endswith(SUFFIXES) and all(map(is_visible, normal(name).split("/")))


def is_visible(part: str) -> bool:
    """Whether a file or folder is one that a person put there."""
    return not part.startswith(".") and part != "__MACOSX"


def class_of_each(names: Sequence[str], path: Path) -> list[str] | None:
    """The class of every file: its top folder; None if no file is in one.

    `names` are sorted by what `normal` makes of them.
    A folder that all the files share (`train/` in `train/cat/1.png`, `train/dog/2.png`) is
    stepped into first. Files beside class folders raise UserError, naming `path` and a file.

    >>> class_of_each(["train/cat/1.png", "train/dog/new/2.png"], "pets.zip")
    ['cat', 'dog']
    >>> class_of_each(["train/1.png", "train/2.png"], "pets.zip")
    """
    # The folder that the first and the last of sorted names share, all share.
    ends = [os.path.dirname(normal(name)) for name in (names[0], names[-1])]
    shared = os.path.commonpath(ends)
    start = len(shared) + 1 if shared else 0
    tops = (normal(name)[start:].partition("/") for name in names)
    classes = [sys.intern(top) if slash else None for top, slash, _ in tops]
    if not any(classes):
        return None
    if None in classes:
        name = names[classes.index(None)][start:]
        raise UserError(f"{path} has images beside class folders: move {name!r} into a folder")
    return classes
