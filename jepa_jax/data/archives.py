"""Images in a zip or tar file that is never unpacked: found once, then read where they lie.

`os.pread` moves no file position, so that threads and forked processes may share an open file.
"""

import abc
import os
import re
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jepa_jax.data.names import Names, is_image, normal
from jepa_jax.data.reading import read_patiently, refusal
from jepa_jax.errors import StorageError, UserError

COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

LARGEST = 2**30  # bytes of a member: more than any picture that can be decoded has

# Name, and what it takes to read it: first of all the bytes of memory.
Members = Iterator[tuple[str, tuple[int, ...]]]


class Archive(abc.ABC):
    """The images in one file. `names` are those of its members, sorted."""

    def __init__(self, path: Path):
        self.path = path
        members = dict(self._find())  # of members with the same name the last one counts
        self.names = Names(sorted(members))
        try:
            self._where = np.array([members[name] for name in self.names], np.int64)
        except OverflowError as error:
            message = f"{path} has a member of an impossible size: copy or download it again"
            raise UserError(message) from error
        self._open()

    def _open(self) -> None:
        self._file = read_patiently(lambda: os.open(self.path, os.O_RDONLY), self.path)
        weakref.finalize(self, os.close, self._file)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def read(self, index: int) -> bytes:
        """The bytes of one member."""
        name, (size, *where) = f"{self.path}/{self.names[index]}", self._where[index].tolist()
        if size > LARGEST:
            raise UserError(f"{name} has {size:,} bytes, too many: shrink it or remove it")
        try:
            return read_patiently(lambda: self._read(size, *where), name)
        except StorageError:
            raise
        except (ValueError, zlib.error, OSError, MemoryError, OverflowError) as error:
            message = f"{name} is damaged: copy or download the {self.path.suffix[1:]} file again"
            raise UserError(message) from error

    @abc.abstractmethod
    def _find(self) -> Members:
        """The images in it."""

    def _read(self, size: int, start: int) -> bytes:
        data = os.pread(self._file, size, start)
        if len(data) < size:
            raise ValueError("the file ends before it")
        return data

    def _inside(self, name: str) -> str:
        """The normal name. One that leads out of the archive raises UserError."""
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or re.fullmatch("[a-zA-Z]:", parts[0]):
            message = f"{self.path} has a member {name!r}, which leads out of it: pack it anew"
            raise UserError(message)
        return normal(name)

    def _refuse(self, name: str, reason: str, remedy: str) -> None:
        raise UserError(f"{self.path}/{name} {reason}: pack it anew {remedy}")


class Zip(Archive):
    """The images in a zip file, stored or deflated."""

    def _find(self) -> Members:
        try:
            with zipfile.ZipFile(self.path) as file:
                members = file.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            message = f"{self.path} isn't a whole zip file: copy or download it again"
            raise UserError(message) from error
        except OSError as error:
            raise refusal(error, self.path) from error
        for member in members:
            name = self._inside(member.filename)
            if member.filename.endswith(("/", "\\")) or not is_image(name):
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                self._refuse(name, "is a link", "without `zip --symlinks`")
            if member.flag_bits & 1:
                self._refuse(name, "is encrypted", "without a password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                self._refuse(name, "is compressed in a rare way", "with `zip -0`")
            packed = member.compress_size
            size = max(member.file_size, packed)
            yield name, (size, member.header_offset, packed, member.compress_type, member.CRC)

    def _read(self, size: int, start: int, packed: int, method: int, checksum: int) -> bytes:
        # The header in front of the data repeats the name, and has an extra field of its own.
        mark, lengths = struct.unpack("<4s22x4s", super()._read(30, start))
        if mark != b"PK\x03\x04":
            raise ValueError("no member begins here")
        data = super()._read(packed, start + 30 + sum(struct.unpack("<HH", lengths)))
        if method == zipfile.ZIP_DEFLATED:
            # A kilobyte may become a megabyte, whatever the directory says.
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            if len(data) > size:
                raise ValueError("larger than it should be")
        if zlib.crc32(data) != checksum:
            raise ValueError("checksums differ")
        return data


class Tar(Archive):
    """The images in a tar file, which has no checksums of them."""

    def _find(self) -> Members:
        try:
            with tarfile.open(self.path, "r:") as file:
                while (member := file.next()) is not None:
                    file.members.clear()  # kept otherwise, at a kilobyte each
                    name = self._inside(member.name)
                    if member.isdir() or not is_image(name):
                        continue
                    if member.islnk() or member.issym():
                        self._refuse(
                            name, "is a link", "with `tar --dereference --hard-dereference`"
                        )
                    if member.issparse():
                        self._refuse(name, "has holes", "without `tar --sparse`")
                    if member.isreg():
                        yield name, (member.size, member.offset_data)
                # The module takes any rubbish after the first member for the end.
                file.fileobj.seek(file.offset)
                whole = file.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except UserError:
            raise
        except (tarfile.TarError, ValueError, OverflowError):  # the last two of damaged headers
            whole = False
        except OSError as error:
            raise refusal(error, self.path) from error
        if not whole:
            raise UserError(f"{self.path} isn't a whole tar file: copy or download it again")
