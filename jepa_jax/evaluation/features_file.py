"""Features in a file that other programs read and write: .npz or .array_record.

An .npz holds `features` (n, D) or (n, N, D), and where they are known `labels` (n,), `names` (n,)
and `classes` (k,). An .array_record holds tf.train.Examples of `features` and their `shape`, and
where they are known `label`, `class` and `name`.
"""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jepa_jax.errors import StorageError, UserError

SUFFIXES = (".npz", ".array_record")
OPTIONS = "group_size:1,uncompressed"  # numbers of networks hardly shrink


class Content(NamedTuple):
    """What is known of n images."""

    features: Float[np.ndarray, "n ..."]  # (n, D), or of every patch (n, N, D)
    labels: Int[np.ndarray, " n"] | None = None
    names: np.ndarray | None = None  # (n,) texts
    classes: tuple[str, ...] | None = None  # the labels' names


def check_suffix(file: pathlib.Path) -> None:
    """Raises UserError for a file of another kind."""
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"{file} is no file of features: name one that ends on .npz or .array_record"
        )


def write(file: pathlib.Path, content: Content) -> None:
    """Writes the file; it is there whole or not at all.

    Args:
      content: the features may be memory-mapped; they are not read at once.
    """
    check_suffix(file)
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        (_write_npz if file.suffix == ".npz" else _write_records)(part, content)
        os.replace(part, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: of ArrayRecord
        raise StorageError(f"{file} can't be written ({error})") from None
    finally:
        part.unlink(missing_ok=True)


def read(file: pathlib.Path) -> Content:
    """What lies in the file.

    Raises:
      UserError: if it is not there, damaged, or its arrays do not go together.
    """
    check_suffix(file)
    if not file.is_file():
        raise UserError(f"{file} is not there: make it with launch/extract.py, or np.savez")
    content = (_read_npz if file.suffix == ".npz" else _read_records)(file)
    features, labels = content.features, content.labels
    if features.ndim not in (2, 3) or not np.issubdtype(features.dtype, np.floating):
        raise UserError(
            f"{file}: features are {features.dtype} {features.shape}: give floats, (images, width)"
            " or (images, patches, width)"
        )
    if labels is not None and (
        labels.shape != features.shape[:1] or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise UserError(
            f"{file}: labels are {labels.dtype} {labels.shape} for {len(features)} images: give a"
            " whole number for each"
        )
    if labels is not None and not 0 <= labels.min(initial=0) <= labels.max(initial=0) < 2**31:
        raise UserError(
            f"{file}: labels go from {labels.min()} to {labels.max()}: number the classes from 0"
        )
    if labels is not None and content.classes and labels.max(initial=0) >= len(content.classes):
        raise UserError(
            f"{file}: there is a label {labels.max()}, but {len(content.classes)} classes"
        )
    return content


def _write_npz(file: pathlib.Path, content: Content) -> None:
    np.savez(file, **{key: value for key, value in content._asdict().items() if value is not None})


def _read_npz(file: pathlib.Path) -> Content:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in Content._fields if key in arrays.files}
            keys = arrays.files
    except (OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} isn't a whole npz file of plain arrays: make it again") from error
    if "features" not in found:
        raise UserError(
            f"{file} has no array 'features', only {', '.join(keys)}: rename the one meant"
        )
    if "classes" in found:
        found["classes"] = tuple(found["classes"].tolist())
    return Content(**found)


def _write_records(file: pathlib.Path, content: Content) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(file), OPTIONS)
    try:
        for record in _records(content):
            writer.write(record)
    finally:
        writer.close()


def _records(content: Content) -> Iterator[bytes]:
    from tensorflow_datasets.proto import tf_example_pb2

    for row, values in enumerate(content.features):
        entries = (record := tf_example_pb2.Example()).features.feature
        entries["features"].float_list.value.extend(values.ravel().tolist())
        entries["shape"].int64_list.value.extend(values.shape)
        if content.labels is not None:
            label = int(content.labels[row])
            entries["label"].int64_list.value.append(label)
            if content.classes:
                entries["class"].bytes_list.value.append(os.fsencode(content.classes[label]))
        if content.names is not None:
            entries["name"].bytes_list.value.append(os.fsencode(str(content.names[row])))
        yield record.SerializeToString(deterministic=True)


def _read_records(file: pathlib.Path) -> Content:
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    features, labels, names, classes = [], [], [], {}
    try:
        records = ArrayRecordDataSource(str(file))
        for row in range(len(records)):
            entries = tf_example_pb2.Example.FromString(records[row]).features.feature
            values = np.float32(entries["features"].float_list.value)
            features.append(values.reshape(entries["shape"].int64_list.value))
            labels += entries["label"].int64_list.value
            names += map(os.fsdecode, entries["name"].bytes_list.value)
            classes |= dict(
                zip(labels[-1:], map(os.fsdecode, entries["class"].bytes_list.value), strict=False)
            )
        stacked = np.stack(features)
    except (RuntimeError, ValueError, DecodeError) as error:
        raise UserError(
            f"{file} isn't a whole ArrayRecord file of features: make it again"
        ) from error
    return Content(
        stacked,
        np.array(labels, np.int32) if labels else None,
        np.array(names) if names else None,
        tuple(classes.get(label, str(label)) for label in range(max(classes) + 1))
        if classes
        else None,
    )
