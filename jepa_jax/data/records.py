"""Examples in ArrayRecord files, read by position.

A record is a tf.train.Example, as TensorFlow Datasets writes them, or an image file as it is.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from jepa_jax.data.descriptors import EXHAUSTED, allow, too_many_files
from jepa_jax.data.fields import Fields, from_example, from_folder, is_image_file
from jepa_jax.data.joined import joined
from jepa_jax.data.protocol import Example, Indices, Labels, Source
from jepa_jax.errors import UserError

READERS = 16  # threads that count records and read labels
TRIES = 8  # records that may be damaged before one that shows what is in them


@dataclass(frozen=True)
class Shard:
    """Records of one file: `take` of them after the first `skip` (ArrayRecord's own words)."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class RecordSource:
    """The records of several files, one after the other.

    Other processes may read it if they are spawned, not forked: ArrayRecord keeps threads of its
    own, which a fork leaves behind.

    Args:
      where: what the files are, for messages.
      data: the section of the config, which may name the fields.
      fields: what a record holds; None to find out from the first.
    """

    def __init__(
        self, shards: Sequence[Shard], where: str, data: ConfigDict, fields: Fields | None = None
    ):
        self._shards = [shard for shard in shards if shard.take]
        if not self._shards:
            raise UserError(f"{where} holds no images: name another split or other files")
        allow(len(self._shards))  # each stays open once it was read
        self._starts = [0, *itertools.accumulate(shard.take for shard in self._shards)]
        self._files = [ArrayRecordDataSource([shard]) for shard in self._shards]
        self._fields = self._first(data, fields)
        self.labelled = self._fields.label is not None
        self.classes = self._fields.classes

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Example:
        record, name = self._record(index)
        if self._fields.image is None:
            return Example(record, None, name)
        entries = _entries(record, name)
        image = _image(entries, self._fields, name)
        return Example(image, _label(entries, self._fields, name), name)

    def labels(self, indices: Indices) -> Labels:
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self._read_label, np.asarray(indices).tolist())
            return np.fromiter(found, np.int32, len(indices))

    def entries(self, index: int) -> tuple[Mapping[str, Any], str]:
        """Everything in the tf.train.Example of one record, and the record's name."""
        record, name = self._record(index)
        return _entries(record, name), name

    def _read_label(self, index: int) -> int:
        record, name = self._record(index)
        if (label := _label(_entries(record, name), self._fields, name)) is None:
            raise UserError(f"{name} has no label but other images have: label all or none")
        return label

    def _record(self, index: int) -> tuple[bytes, str]:
        index = range(len(self))[index]
        k = bisect.bisect_right(self._starts, index) - 1
        place = index - self._starts[k]
        name = f"{self._shards[k].filename}[{self._shards[k].skip + place}]"
        try:
            return self._files[k][place], name
        except (RuntimeError, ValueError) as error:  # as ArrayRecord says it
            if EXHAUSTED in str(error):
                raise too_many_files() from error
            raise UserError(f"{name} can't be read: copy or prepare the file again") from error

    def _first(self, data: ConfigDict, fields: Fields | None) -> Fields:
        """What the records hold, as the first one shows that isn't damaged."""
        damage = None
        for index in range(min(TRIES, len(self))):
            try:
                record, name = self._record(index)
                found = fields or _find_fields(record, name, data)
                if found.image is None:
                    return found
                entries = _entries(record, name)
                _image(entries, found, name)
                # A split whose labels are secret has -1 everywhere.
                secret = _label(entries, found, name) is None
                return found._replace(label=None, classes=None) if secret else found
            except UserError as error:
                damage = damage or error
        raise damage


def open_array_record(paths: Sequence[Path], data: ConfigDict) -> Source:
    """The records of these files. What TFDS tells of them in their folders is believed."""
    for path in paths:
        if path.is_dir():
            message = f"{path} is a folder: name its files, as in data.path={path}/*.array_record*"
            raise UserError(message)
    with ThreadPoolExecutor(READERS) as pool:
        shards = list(pool.map(_whole, paths))
    folders = sorted({path.parent for path in paths})
    parts = []
    for folder in folders:
        here = [s for s, path in zip(shards, paths, strict=True) if path.parent == folder]
        parts.append(RecordSource(here, f"{folder}", data, from_folder(folder, data)))
    return joined(parts)


def _whole(path: Path) -> Shard:
    try:
        length = len(ArrayRecordDataSource(str(path)))
    except RuntimeError as error:
        if EXHAUSTED in str(error):
            raise too_many_files() from error
        message = f"{path} isn't a whole ArrayRecord file: copy or make it again"
        raise UserError(message) from error
    return Shard(str(path), 0, length, length)


def _find_fields(record: bytes, name: str, data: ConfigDict) -> Fields:
    if is_image_file(record):
        return Fields(None)
    return from_example(_entries(record, name), data, name)


def _entries(record: bytes, name: str) -> Mapping[str, Any]:
    try:
        return tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        message = (
            f"{name} is neither a tf.train.Example nor an image file: encode it as JPEG or PNG"
        )
        raise UserError(message) from error


def _image(entries: Mapping[str, Any], fields: Fields, name: str) -> bytes:
    images = entries[fields.image].bytes_list.value
    if len(images) != 1:
        raise UserError(f"{name} has {len(images)} images in {fields.image!r}: one is needed")
    return images[0]


def _label(entries: Mapping[str, Any], fields: Fields, name: str) -> int | None:
    values = entries[fields.label].int64_list.value if fields.label else ()
    if not values or values[0] < 0:
        return None
    if values[0] >= fields.limit:
        raise UserError(
            f"{name} has the label {values[0]}, but the last class is {fields.limit - 1}: correct"
            " it, or name another entry in data.label_key"
        )
    return values[0]
