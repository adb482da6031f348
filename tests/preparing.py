"""Asks for data sets and reads what was prepared; what the tests of that share."""

import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.data.prepare.request import Request
from jepa_jax.data.prepare.run import Means

NOISE = np.random.default_rng(0).integers(0, 256, (600, 100, 100, 3), np.uint8)


def source(path, kind: str = "folder", test_split: str = "") -> ConfigDict:
    """As the command has it with --from."""
    data = defaults().data
    data.source, data.path, data.test_split = kind, str(path), test_split
    return data


def request(data: ConfigDict, to: pathlib.Path, splits=("train",), held_out=0.0, **encoding):
    return Request(data, to, tuple(splits), Encoding(**encoding), held_out, shard_mb=1)


def means(stop=False, max_broken=0.01) -> Means:
    return Means(workers=1, max_broken=max_broken, stop=stop)


def records(path: pathlib.Path, split: str) -> dict[str, dict]:
    """What TFDS reads, by file name."""
    builder = tfds.builder_from_directory(path / "1.0.0")
    raw = {"image": tfds.decode.SkipDecoding()}
    found = list(builder.as_data_source(split, decoders=raw))
    assert len(found) == builder.info.splits[split].num_examples
    return {record["file_name"].decode(): record for record in found}


def classes(path: pathlib.Path):
    return tfds.builder_from_directory(path / "1.0.0").info.features["label"]


def files(path: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def encoded(pixels: np.ndarray, format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def save(path: pathlib.Path, images: dict[str, bytes]) -> pathlib.Path:
    for name, content in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


PHOTOS = {
    f"{kind}/{number}.{format}": encoded(NOISE[number, :20, :30], format)
    for number, (kind, format) in enumerate(
        [(kind, format) for kind in ("cat", "dog") for format in ("jpeg", "png", "webp", "gif")]
    )
}
