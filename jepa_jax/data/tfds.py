"""Data sets that TensorFlow Datasets has prepared: found on disk, read without TensorFlow."""

import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path

import tensorflow_datasets
from ml_collections import ConfigDict
from tensorflow_datasets.core import constants

from jepa_jax.data.fields import from_spec
from jepa_jax.data.records import RecordSource, Shard
from jepa_jax.errors import UserError, did_you_mean

FORMAT = "array_record"  # the one that gives any record without reading those before it
VERSION = re.compile(r"\d+\.\d+\.\d+")


def open_tfds(data: ConfigDict, split: str) -> RecordSource:
    """The images of a split, or of a split expression such as `train[:90%]`."""
    folder = find_dataset(data)
    info = _info(folder)
    shards = _shards(info, split, folder)
    _check_files(shards)
    fields = from_spec(info.features, data, folder)
    return RecordSource(shards, f"{folder} ({split})", data, fields)


def find_shards(data: ConfigDict, split: str) -> list[Shard]:
    """Which records of which files a split is; they are not opened."""
    folder = find_dataset(data)
    return _shards(_info(folder), split, folder)


def _info(folder: Path) -> tensorflow_datasets.core.DatasetInfo:
    try:
        info = tensorflow_datasets.builder_from_directory(str(folder)).info
    except Exception as error:  # of all kinds, on files that are broken or of another version
        raise UserError(f"{folder} can't be understood: prepare it again") from error
    formats = {found.value for found in info.available_file_formats()}
    if FORMAT not in formats:
        raise UserError(
            f"{folder} is prepared as {', '.join(sorted(formats))}, which gives no random access: "
            f"`tfds convert_format --dataset_version_dir={folder} --out_file_format={FORMAT}`"
        )
    info.set_file_format(FORMAT, override=True, override_if_initialized=True)
    return info


def _shards(info: tensorflow_datasets.core.DatasetInfo, split: str, folder: Path) -> list[Shard]:
    _check_split(split, list(info.splits), folder)
    try:
        instructions = info.splits[split].file_instructions
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"split {split!r} of {folder} can't be had: write it as 'train', 'train[:90%]' or "
            f"'train[100:200]+test' ({reason})"
        ) from error
    return [Shard(str(i.filename), i.skip, i.take, i.examples_in_shard) for i in instructions]


def find_dataset(data: ConfigDict) -> Path:
    """The folder of `data.name` (`name`, `name/config`, `name:version`) below `data.path`.

    Without a version it is the newest. `data.path` may also be that folder itself.
    """
    root = Path(os.path.expanduser(data.path or constants.DATA_DIR))
    if _is_dataset(root):
        return root
    if not data.name:
        raise UserError("data.name is empty: name a data set of TFDS, such as imagenet2012:5.1.0")
    name, _, version = data.name.partition(":")
    versions = _versions(root / name)
    if not versions:
        raise UserError(f"data.name {data.name!r} isn't in {root}: {_remedy(data, root)}")
    fitting = fnmatch.filter(versions, version or "*")
    if not fitting:
        raise UserError(
            f"data.name {data.name!r}: {root / name} has {', '.join(versions)}"
            f"{did_you_mean(version, versions)}"
        )
    return root / name / fitting[-1]


def _versions(folder: Path) -> list[str]:
    """The newest comes last."""
    found = [path.name for path in _listed(folder) if VERSION.fullmatch(path.name)]
    found = [name for name in found if _is_dataset(folder / name)]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")])


def _remedy(data: ConfigDict, root: Path) -> str:
    name = data.name.partition(":")[0]
    if configs := [path.name for path in _listed(root / name) if _versions(path)]:
        return f"add one of its configs, as in {name}/{min(configs)} (it has {', '.join(configs)})"
    near = did_you_mean(name, [path.name for path in _listed(root)])
    command = f"tfds build {data.name} --file_format={FORMAT}"
    if data.path:
        command += f" --data_dir={root}"
    return f"prepare it with `{command}`, or say in data.path where it is{near}"


def _check_split(split: str, known: list[str], folder: Path) -> None:
    for part in split.split("+"):
        name = part.partition("[")[0].strip()
        if name not in (*known, "all"):
            raise UserError(
                f"{folder} has no split {name!r}, only {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )


def _check_files(shards: Iterable[Shard]) -> None:
    listed = {}
    for shard in shards:
        folder, name = os.path.split(shard.filename)
        if folder not in listed:
            listed[folder] = {path.name for path in _listed(Path(folder))}
        if name not in listed[folder]:
            raise UserError(f"{shard.filename} is missing: copy or prepare the data set again")


def _is_dataset(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
