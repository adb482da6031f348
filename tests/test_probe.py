"""The probe during training: the right images with the right labels."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import pixels_in_a_row
from jepa_jax.evaluation.probe import Probe
from jepa_jax.evaluation.splits import open_splits
from jepa_jax.parallel.sharding import make_mesh

SHADES = {"black": 0, "grey": 128, "white": 255}


def config(folder) -> ConfigDict:
    c = defaults()
    c.data.path = f"{folder}/{{split}}"
    c.data.image_size = (4, 4)
    c.data.channels = 1
    c.probe.neighbours = 1
    return c


def probe(config: ConfigDict) -> Probe:
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    return Probe(config, open_source(config.data, config.data.train_split), mesh)


def write(folder, split: str, classes: list[str]) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / split / name).mkdir(parents=True)
        for number in range(8):
            # Noise around the shade, so that cosine similarity sees more than a constant.
            ramp = np.linspace(0, 1, 4) if name == "black" else np.linspace(1, 0, 4)
            pixels = np.tile(ramp * 60, (4, 1)) + SHADES[name] / 2 + rng.normal(size=(4, 4))
            image = np.clip(pixels, 0, 255).astype(np.uint8)
            Image.fromarray(image.T if name == "grey" else image).save(
                folder / split / name / f"{number}.png"
            )


def test_classes_go_by_name_not_by_number(tmp_path):
    """A class that the held-out split lacks must not shift the others."""
    write(tmp_path, "train", ["black", "grey", "white"])
    write(tmp_path, "val", ["black", "white"])
    scores = probe(config(tmp_path)).pixel_scores()
    assert scores == {"knn": 1.0, "linear": 1.0}


def test_images_that_cannot_be_read_are_left_out(tmp_path):
    """The next image, of another class, must not stand for the last of a class."""
    for split in ("train", "val"):
        write(tmp_path, split, ["black", "grey", "white"])
        (tmp_path / split / "black" / "7.png").write_bytes(b"damaged")
    probed = probe(config(tmp_path))
    features, labels = probed._look(pixels_in_a_row, (), probed._splits[0])
    assert len(features) == len(labels) == 23
    assert labels.tolist() == 7 * [0] + 8 * [1] + 8 * [2]
    assert probed.pixel_scores() == {"knn": 1.0, "linear": 1.0}


def test_classes_that_training_lacks_are_named(tmp_path):
    write(tmp_path, "train", ["black", "grey"])
    write(tmp_path, "val", ["black", "white"])
    with pytest.raises(UserError, match="lacks: white"):
        probe(config(tmp_path))


def test_one_class_is_refused_before_the_run(tmp_path):
    write(tmp_path, "train", ["black", "grey"])
    write(tmp_path, "val", ["black", "grey"])
    one = config(tmp_path)
    one.probe.train_images = 1
    with pytest.raises(UserError, match=r'at least two, .*, or set data\.test_split=""'):
        probe(one)


@pytest.mark.parametrize(
    ("path", "train", "test", "shared"),
    [
        ("{split}*", "train", "train_val", "train_val"),
        ("{split}*", "train_val", "train", "train_val"),
        ("{split}", "train", "train/", "train"),
        ("{split}", "../pets", "val", "val"),
        ("{split}", "val", "linked", "val"),
    ],
)
def test_splits_that_overlap_are_refused(tmp_path, path, train, test, shared):
    folder = tmp_path / "pets"
    for split in ("train", "train_val", "val"):
        write(folder, split, ["black", "white"])
    (folder / "linked").symlink_to(folder / "val")
    data = config(folder).data
    data.path, data.train_split, data.test_split = f"{folder}/{path}", train, test
    with pytest.raises(UserError, match=f"would be the same images, .* of {folder}/{shared}: hold"):
        open_splits(data, labelled=False)
    data.path, data.train_split, data.test_split = f"{folder}/{{split}}", "train", "val"
    open_splits(data)


def test_parts_of_a_mixture_that_overlap_are_refused(tmp_path):
    for split in ("train", "val"):
        write(tmp_path, split, ["black", "white"])
    one = {"source": "folder", "path": f"{tmp_path}/{{split}}"}
    data = config(tmp_path).data
    data.source, data.mixture = "mixture", (one, one | {"train_split": "val", "test_split": ""})
    with pytest.raises(UserError, match=r"would be the same images, .*val: hold"):
        open_splits(data)


def test_no_labels(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / split / "a.png")
    with pytest.raises(UserError, match="'train' have no labels: they are not in folders of"):
        probe(config(tmp_path))
