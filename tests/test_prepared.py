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
from jepa_jax.data.prepare.request import Request
from jepa_jax.data.prepare.run import Means, prepare
from jepa_jax.data.sources import open_source


def settings(source: str, path, **changes) -> ConfigDict:
    data = defaults().data
    data.source, data.path, data.threads = source, str(path), 2
    data.image_size, data.test_split = (16, 16), ""
    data.update(changes)
    return data


def make_noise(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        path = folder / f"class{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (320, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=95)


def take_some(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Forty of its images, from all over it."""
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in {archive.parent}")
    with zipfile.ZipFile(archive) as file:
        names = [name for name in file.namelist() if not name.endswith("/")]
        file.extractall(folder, names[:: len(names) // 40][:40])


@pytest.fixture(scope="module", params=["noise", "imagenette_val.zip", "cifar10_test.zip"])
def everywhere(request, tmp_path_factory) -> dict[str, ConfigDict]:
    """The same photos as a folder, in a zip file and prepared, in several shards if they fill them.

    Those that people took are JPEG and WebP files, some of them grey.
    """
    root: pathlib.Path = tmp_path_factory.mktemp("photos")
    if request.param == "noise":
        make_noise(root / "folder")
    else:
        take_some(request.getfixturevalue("shared") / "data" / request.param, root / "folder")
    with zipfile.ZipFile(root / "photos.zip", "w") as file:
        for path in filter(pathlib.Path.is_file, (root / "folder").rglob("*")):
            file.write(path, path.relative_to(root / "folder"))
    folder = settings("folder", root / "folder")
    wanted = Request(folder, root / "data" / "photos", ("train",), Encoding(), shard_mb=1)
    assert prepare(wanted, Means(1, 0.0, False)) == 0
    if request.param == "noise":
        assert len(list(root.glob("data/photos/1.0.0/*.array_record*"))) > 1
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
