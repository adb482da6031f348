"""Image files in a folder, in a zip or in a tar file, with the folders in it as their classes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jepa_jax.data.archives import COMPRESSED, Archive, Tar, Zip
from jepa_jax.data.descriptors import allow
from jepa_jax.data.joined import joined
from jepa_jax.data.names import SUFFIXES, Names, classes_of, is_image, is_visible, normal
from jepa_jax.data.protocol import Example, Indices, Labels, Source
from jepa_jax.data.reading import read_patiently
from jepa_jax.errors import UserError


class Folder:
    """The images below a folder. `names` are relative to it, sorted."""

    def __init__(self, path: Path):
        self.path = path
        self.names = read_patiently(lambda: Names(sorted(_images(str(path)), key=normal)), path)

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        file = self.path / self.names[index]
        return read_patiently(file.read_bytes, file)


class FileSource:
    """Image files; the bytes are read when an example is asked for. `names` are their paths.

    Args:
      each: the class of every file, if they have one.
    """

    def __init__(self, found: Folder | Archive, each: Sequence[str] | None):
        self._files, self.names = found, found.names
        self._labels = self.classes = None
        if each is not None:
            self.classes = tuple(sorted(set(each)))
            number = {name: label for label, name in enumerate(self.classes)}
            self._labels = np.fromiter(map(number.get, each), np.int32, len(each))
        self.labelled = self._labels is not None

    def __len__(self) -> int:
        return len(self._files.names)

    def __getitem__(self, index: int) -> Example:
        label = int(self._labels[index]) if self.labelled else None
        name = f"{self._files.path}/{self._files.names[index]}"
        return Example(self._files.read(index), label, name)

    def labels(self, indices: Indices) -> Labels:
        return self._labels[indices]


def open_files(paths: Sequence[Path]) -> Source:
    """The images in these folders, zip and tar files. Any other file raises UserError.

    Which folders are classes is seen over all of them: one alone may hold a single class.
    """
    allow(sum(not path.is_dir() for path in paths))  # an archive stays open
    found = [_find(path) for path in paths]
    classes = classes_of([part.names for part in found], paths)
    return joined([FileSource(part, each) for part, each in zip(found, classes, strict=True)])


def _find(path: Path) -> Folder | Archive:
    """What is in one of them: at least an image."""
    found = _look_into(path)
    if not found.names:
        raise UserError(f"{path} holds no images: put some there ({' '.join(SUFFIXES)})")
    return found


def _look_into(path: Path) -> Folder | Archive:
    name = path.name.lower()
    if path.is_dir():
        return Folder(path)
    if name.endswith(".zip"):
        return Zip(path)
    if name.endswith(".tar"):
        return Tar(path)
    if name.endswith(COMPRESSED):
        raise UserError(
            f"{path} is compressed as a whole, so that no image can be read alone: unpack it, "
            "or make it a plain .tar"
        )
    raise UserError(
        f"{path} is neither a folder nor a .zip or .tar file: name the one that holds it"
    )


def _images(folder: str, within: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of the images below a folder that lies in `above`, which are real paths."""
    real = os.path.realpath(folder)
    if real in above:  # a link that goes round in a circle
        return
    with os.scandir(folder) as entries:
        for entry in filter(lambda entry: is_visible(entry.name), entries):
            if entry.is_dir():
                yield from _images(entry.path, f"{within}{entry.name}/", (*above, real))
            elif is_image(entry.name) and (
                entry.is_file()  # whoever reads a pipe waits without end
                or not os.path.exists(entry.path)  # a dead link, to be named when it is read
            ):
                yield within + entry.name
