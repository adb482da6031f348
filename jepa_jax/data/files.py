"""Encoded images in a folder or in a zip file that is never unpacked: their names and bytes."""

import os
import threading
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from jepa_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Folder:
    """The images below a folder. `names` are relative to it, with '/', sorted."""

    def __init__(self, path: Path):
        self.path = path
        names, seen = [], set()
        for folder, folders, files in os.walk(path, onerror=_refuse, followlinks=True):
            if (real := os.path.realpath(folder)) in seen:  # links may go round in circles
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(filter(_is_visible, folders))
            within = "" if folder == str(path) else f"{os.path.relpath(folder, path)}/"
            names += [within + file for file in files]
        self.names = _images(names)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            _refuse(error)


class Archive:
    """The images in a zip file. Threads share a handle; another process opens its own."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self._open()
        self.names = _images(self._zip.namelist())

    def _open(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            message = f"{self.path} isn't a whole zip file: copy or download it again"
            raise UserError(message) from error
        except OSError as error:
            _refuse(error)
        self._process = os.getpid()

    def __getstate__(self) -> dict:
        return {"path": self.path, "names": self.names}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _process=None)

    def read(self, name: str) -> bytes:
        """The bytes of one member."""
        try:
            with self._lock:
                # A forked process would share the file position with its parent.
                if self._process != os.getpid():
                    self._open()
                return self._zip.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            message = f"{self.path}/{name} is damaged: copy or download the zip file again"
            raise UserError(message) from error
        except RuntimeError as error:  # a password, or an unknown way of packing
            raise UserError(f"{self.path}/{name} can't be unpacked ({error})") from error


def open_files(path: Path) -> Folder | Archive:
    """The images in the folder or zip file at `path`. Any other file raises UserError."""
    if path.is_dir():
        return Folder(path)
    if path.suffix.lower() == ".zip":
        return Archive(path)
    raise UserError(f"{path} is neither a folder nor a .zip file: name the one that holds it")


def class_of_each(names: Sequence[str], path: Path) -> list[str] | None:
    """The class of every file: its top folder; None if no file is in one.

    A folder that all the files share (`train/` in `train/cat/1.png`, `train/dog/2.png`) is
    stepped into first. Files beside class folders raise UserError, naming `path` and a file.

    >>> class_of_each(["train/cat/1.png", "train/dog/new/2.png"], "pets.zip")
    ['cat', 'dog']
    >>> class_of_each(["train/1.png", "train/2.png"], "pets.zip")
    """
    parts = [name.split("/") for name in names]
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[1:] for part in parts]
    classes = [part[0] if len(part) > 1 else None for part in parts]
    if not any(classes):
        return None
    if None in classes:
        name = names[classes.index(None)]
        raise UserError(f"{path} has images beside class folders: move {name!r} into a folder")
    return classes


def _images(names: Iterable[str]) -> list[str]:
    """Those that are images and not hidden, each once, sorted."""
    return sorted(
        name
        for name in set(names)
        if name.lower().endswith(SUFFIXES) and all(map(_is_visible, name.split("/")))
    )


def _is_visible(part: str) -> bool:
    return not part.startswith(".") and part != "__MACOSX"


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} can't be read: {error.strerror}") from error
