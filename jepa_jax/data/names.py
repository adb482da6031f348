"""The names of many image files: kept in little memory, and the classes that they tell."""

import itertools
import posixpath
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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


def classes_of(parts: Sequence[Sequence[str]], paths: Sequence[Path]) -> Iterator[list[str] | None]:
    """The class of every file of each part, or None for a part without.

    Its classes are the folders of the first level at which a part has several. All files of a part
    that lie in one folder are of that class if another part has it, or others at its level.

    Args:
      parts: names, sorted by what `normal` makes of them.
      paths: what to call each part in errors.

    Raises:
      UserError: for files beside class folders.

    >>> list(classes_of([["train/cat/1.png", "train/dog/new/2.png"]], ["pets.zip"]))
    [['cat', 'dog']]
    >>> list(classes_of([["train/1.png", "train/2.png"]], ["pets.zip"]))
    [None]
    >>> list(classes_of([["cat/1.png", "dog/2.png"], ["cat/new/3.png"]], ["a.zip", "b.zip"]))
    [['cat', 'dog'], ['cat']]
    """
    shared = [_shared_folders(names) for names in parts]
    below = [_folders_below(around, names) for around, names in zip(shared, parts, strict=True)]
    several = [folders for folders in below if None not in folders]
    known = Counter(name for folders in several for name in set(folders))
    levels = {
        len(around) for around, folders in zip(shared, below, strict=True) if None not in folders
    }
    for path, names, around, folders in zip(paths, parts, shared, below, strict=True):
        own = set(folders)
        of_others = [name for name in around if known[name] > (None not in own and name in own)]
        if own == {None} and not of_others and len(levels) == 1:
            of_others = around[min(levels) :]
        if of_others:
            yield [of_others[0]] * len(folders)
        elif own == {None}:
            yield None
        elif None in own:
            name = "/".join(_parts(names[folders.index(None)])[len(around) :])
            raise UserError(f"{path} has images beside class folders: move {name!r} into a folder")
        else:
            yield folders


def _shared_folders(names: Sequence[str]) -> list[str]:
    # Those that the first and the last of sorted names share, all share.
    levels = zip(_parts(names[0])[:-1], _parts(names[-1])[:-1], strict=False)
    return [first for first, _ in itertools.takewhile(lambda level: level[0] == level[1], levels)]


def _folders_below(around: list[str], names: Sequence[str]) -> list[str | None]:
    """The folder within those around it that each file is in; None for a file in no other."""
    inner = (_parts(name)[len(around) :] for name in names)
    return [sys.intern(top) if below else None for top, *below in inner]


def _parts(name: str) -> list[str]:
    return normal(name).split("/")
