"""A prepared data set trains as its source does: the same batches, whatever it is read through."""

import pathlib
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.data.prepare.plan import Request
from jepa_jax.data.prepare.run import Means, prepare
from jepa_jax.data.sources import open_source


def settings(source: str, path, **changes) -> ConfigDict:
    data = defaults().data
    data.source, data.path, data.threads = source, str(path), 2
    data.image_size, data.test_split = (16, 16), ""
    data.update(changes)
    return data


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory) -> dict[str, ConfigDict]:
    """The same photos as a folder, in a zip file and prepared."""
    root: pathlib.Path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(40):
        path = root / "folder" / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(path)
    with zipfile.ZipFile(root / "photos.zip", "w") as file:
        for path in (root / "folder").rglob("*.jpg"):
            file.write(path, path.relative_to(root / "folder"))
    folder = settings("folder", root / "folder")
    request = Request(folder, root / "data" / "photos", ("train",), Encoding())
    assert prepare(request, Means(1, 0.0, False)) == 0
    return {
        "folder": folder,
        "zip": settings("folder", root / "photos.zip"),
        "tfds": settings("tfds", root / "data", name="photos"),
        "array_record": settings(
            "array_record", root / "data" / "photos" / "1.0.0" / "photos-{split}.array_record*"
        ),
    }


@pytest.mark.parametrize("kind", ["zip", "tfds", "array_record"])
def test_the_same_batches_as_from_the_folder(everywhere, kind):
    made = {}
    for name in ("folder", kind):
        source = open_source(everywhere[name], "train")
        batches = TrainBatches(source, everywhere[name], seed=3, batch_size=16)
        made[name] = [batches[step] for step in range(4)]
        made[f"{name} labels"] = source.labels(np.arange(40)).tolist()
    assert made["folder labels"] == made[f"{kind} labels"]
    for one, other in zip(made["folder"], made[kind], strict=True):
        for key in ("images", "index", "broken"):
            np.testing.assert_array_equal(one[key], other[key])
