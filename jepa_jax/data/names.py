"""The names of many image files: kept in little memory, and the classes that they tell."""

import itertools
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


def outer_folders(parts: Sequence[Sequence[str]]) -> int:
    """How many folders lie around the class folders, seen over all the parts of a data set.

    One that all files share is none of the classes (`train/` in `train/cat/1.png`,
    `train/dog/2.png`), nor is one that each part has for itself around its folders, as an archive
    often has. The names of a part are sorted by what `normal` makes of them.

    >>> outer_folders([["train/cat/1.png", "train/dog/new/2.png"]])
    1
    >>> outer_folders([["cat/1.png"], ["dog/2.png"]])
    0
    >>> outer_folders([["a/cat/1.png", "a/dog/2.png"], ["b/cat/3.png"]])
    1
    """
    around = [_shared_folders(names) for names in parts]
    count = len(_common(around))
    own = {tuple(folders[count : count + 1]) for folders in around}
    if len(parts) > 1 and len(own) == len(parts) and () not in own:
        names = (normal(name) for part in parts for name in part)
        if all(name.count("/") > count + 1 for name in names):
            count += 1
            count += len(_common([folders[count:] for folders in around]))
    return count


def _shared_folders(names: Sequence[str]) -> list[str]:
    # Those that the first and the last of sorted names share, all share.
    ends = [normal(name).split("/")[:-1] for name in (names[0], names[-1])]
    return _common(ends)


def _common(paths: Sequence[list[str]]) -> list[str]:
    """The folders that all of them begin with."""
    levels = zip(*paths, strict=False)
    return [level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels)]


def class_of_each(names: Sequence[str], outer: int, path: Path) -> list[str] | None:
    """The class of every file: its folder within so many outer ones; None if no file is in one.

    Files beside class folders raise UserError, naming `path` and a file.

    >>> class_of_each(["train/cat/1.png", "train/dog/new/2.png"], 1, "pets.zip")
    ['cat', 'dog']
    >>> class_of_each(["train/1.png", "train/2.png"], 1, "pets.zip")
    """
    inner = (normal(name).split("/")[outer:] for name in names)
    classes = [sys.intern(top) if below else None for top, *below in inner]
    if not any(classes):
        return None
    if None in classes:
        name = normal(names[classes.index(None)]).split("/", outer)[-1]
        raise UserError(f"{path} has images beside class folders: move {name!r} into a folder")
    return classes
