"""CLEVR's labels as VTAB makes them, from a small data set as TFDS would write it."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jepa_jax.config import defaults
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from tests.recording import png, write_tfds

DEPTHS = ([9.2, 8.0, 12], [11, 10.5, 12, 10.01], [7.9] * 10)
OBJECT = {
    "color": tfds.features.ClassLabel(names=["gray", "red"]),
    "pixel_coords": tfds.features.Tensor(shape=(3,), dtype=np.float32),
}
SPEC = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "file_name": tfds.features.Text(),
    "objects": tfds.features.Sequence(OBJECT),
}


def scene(number: int, depths: list[float]) -> dict:
    objects = [{"color": 0, "pixel_coords": np.float32([200, 100, depth])} for depth in depths]
    return {"image": io.BytesIO(png(number)), "file_name": f"{number}.png", "objects": objects}


def section(folder, label: str | None):
    c = defaults().data
    c.update(source="clevr", path=str(folder), label_key=label, test_split="validation")
    return c


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    scenes = [scene(i, depths) for i, depths in enumerate(DEPTHS)]
    empty = [scene(0, [])]
    write_tfds(folder / "clevr" / "3.1.0", {"train": scenes, "validation": empty}, SPEC)
    return folder


@pytest.mark.parametrize(("label", "expected"), [(None, [0, 1, 7]), ("distance", [0, 5, 0])])
def test_labels_are_vtabs(folder, label, expected):
    source = open_source(section(folder, label), "train")
    assert source.labels(np.arange(3)).tolist() == expected
    assert [source[i].label for i in range(3)] == expected
    assert source[1].image == png(1)


def test_a_record_without_objects_is_named(folder):
    source = open_source(section(folder, "count"), "validation")
    with pytest.raises(UserError, match=r"00001\[0\] has no scene"):
        source.labels(np.array([0]))


def test_an_unknown_label_is_answered_with_the_nearest(folder):
    with pytest.raises(UserError, match="say count or distance; did you mean 'distance'"):
        open_source(section(folder, "distances"), "train")
