"""Features into a file, with labels or without, and from there under the protocols."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

import jepa_jax
from jepa_jax.config import changed
from jepa_jax.errors import UserError
from jepa_jax.evaluation import features_file
from jepa_jax.evaluation.extract import Asked, extract
from jepa_jax.evaluation.features_file import Content
from jepa_jax.evaluation.given_features import given_task
from jepa_jax.evaluation.run import Asked as Evaluation
from jepa_jax.evaluation.run import evaluate
from jepa_jax.evaluation.splits import ALL
from jepa_jax.parallel.sharding import make_mesh
from tests.commands import launch
from tests.saving import save_run
from tests.tiny import tiny

RANDOM = np.random.default_rng(0)
PATCHES = Content(
    RANDOM.normal(size=(5, 4, 3)).astype(np.float32),
    np.array([0, 2, 1, 2, 0], np.int32),
    np.array(["cat/1.png", "dog/é.png", "c", "d", "e"]),
    ("cat", "bird", "dog"),
)
CONTENTS = {
    "patches": PATCHES,
    "pooled": Content(PATCHES.features[:, 0], PATCHES.labels),
    "unlabelled": Content(PATCHES.features[:, 0], None, PATCHES.names),
}


@pytest.mark.parametrize("suffix", features_file.SUFFIXES)
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_is_written_is_read(tmp_path, content, suffix):
    file = tmp_path / f"features{suffix}"
    features_file.write(file, content)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    for mine, back in zip(content, features_file.read(file), strict=True):
        np.testing.assert_equal(back, mine)


@pytest.mark.parametrize("suffix", features_file.SUFFIXES)
def test_half_a_file_is_refused(tmp_path, suffix):
    file = tmp_path / f"features{suffix}"
    features_file.write(file, PATCHES)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="isn't a whole"):
        features_file.read(file)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": np.zeros(3)}, "no array 'features', only x"),
        ({"features": np.zeros(3)}, r"\(images, width\)"),
        ({"features": np.zeros((3, 2)), "labels": np.zeros(3)}, "a whole number for each"),
        ({"features": np.zeros((3, 2)), "labels": np.zeros(2, int)}, "for 3 images"),
        (
            {"features": np.zeros((1, 2)), "labels": np.array([2]), "classes": np.array(["a"])},
            "label 2, but 1 classes",
        ),
    ],
)
def test_arrays_that_do_not_go_together(tmp_path, arrays, complaint):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(UserError, match=complaint) as error:
        features_file.read(tmp_path / "f.npz")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, tiny())
    return folder


def photos(folder: pathlib.Path, *names: str) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (len(names), 8, 8), np.uint8)
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return images[..., None]


def test_a_folder_without_labels(run, tmp_path):
    images = photos(tmp_path / "photos", "a.png", "b.png", "c.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    file = tmp_path / "features.npz"
    done = launch(
        "extract",
        *(f"--checkpoint={run}", f"--images={tmp_path}/photos", f"--out={file}"),
        *("--config=configs/digits.py", "--config.data.broken_share=0.5"),
    )
    assert done.returncode == 0, done.stderr
    assert "1 images can't be read and are left out" in done.stdout
    found = np.load(file)
    assert sorted(found.files) == ["features", "names"]
    assert found["names"].tolist() == ["a.png", "b.png", "c.png"]
    expected = jepa_jax.load(run).features(images)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.npz", "photos"]


def test_class_folders_give_labels(tmp_path):
    photos(tmp_path / "photos", "dog/1.png", "cat/1.png")
    out = str(tmp_path / "f.array_record")
    config = tiny()
    config.data.validation = 0.5  # of the run's images, not of these
    extract(Asked("pixels", out, config, str(tmp_path / "photos")))
    found = features_file.read(pathlib.Path(out))
    assert found.names.tolist() == ["cat/1.png", "dog/1.png"]
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [0, 1]


def test_splits_are_not_taken_for_classes(tmp_path):
    photos(tmp_path / "photos", "train/1.png", "val/2.png")
    asked = Asked("pixels", str(tmp_path / "f.npz"), tiny(), str(tmp_path / "photos"))
    with pytest.raises(UserError, match="has no classes but splits in it: name one of them"):
        extract(asked)


def test_features_from_files_get_the_numbers_of_their_backbone(tmp_path):
    files = [str(tmp_path / f"{split}.npz") for split in ("train", "test")]
    for file in files:
        extract(Asked("pixels", file, tiny(), split=pathlib.Path(file).stem, count=400))
    evaluate(
        Evaluation(
            ["pixels"],
            ["knn", "lowshot"],
            tiny(),
            out=str(tmp_path),
            features=[",".join(files)],
            train_images=400,
            settings=["lowshot.shares=", "lowshot.per_class=5", "lowshot.draws=2"],
        )
    )
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    names = ["raw pixels", " and ".join(files)]
    assert [each["checkpoint"] for each in results] == [name for name in names for _ in range(2)]
    assert [each["rows"] for each in results[:2]] == [each["rows"] for each in results[2:]]


def test_what_cannot_be_extracted_is_answered_in_one_line(tmp_path):
    asked = Asked("pixels", str(tmp_path / "f.npz"), tiny())
    for change, complaint in (
        ({"out": "gs://bucket/f.npz"}, "is in a bucket: name a local or shared place in --out"),
        ({"out": "f.txt"}, "ends on .npz or .array_record"),
        ({"checkpoint": "nothing"}, "is not there"),
        ({"config": None}, "say which images"),
        ({"config": changed(tiny(), {"data.interpolation": "cubic"})}, "data.interpolation"),
        ({"images": "photos", "split": "test"}, "leave one out"),
        ({"images": str(tmp_path / "photos")}, "isn't there"),
        ({"patches": True}, "no layers or patches"),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            extract(dataclasses.replace(asked, **change))
        assert "\n" not in str(error.value)


def given(folder: pathlib.Path, test: Content, train: Content = PATCHES):
    files = folder / "train.npz", folder / "test.npz"
    for file, content in zip(files, (train, test), strict=True):
        features_file.write(file, content)
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    return given_task(f"{files[0]},{files[1]}", epath.Path(folder), mesh, (ALL, ALL), 0)[0]


def test_classes_go_by_their_names(tmp_path):
    task = given(tmp_path, PATCHES._replace(classes=("dog", "cat", "bird")))
    assert task.test.labels.tolist() == [2, 1, 0, 1, 2]


def test_a_class_that_was_not_drawn_is_asked_of_neither_file(tmp_path):
    """The records tell the names of those classes alone that their images have."""
    few = PATCHES._replace(labels=np.array([0, 2, 2, 0, 2]))
    files = tmp_path / "train.array_record", tmp_path / "test.array_record"
    for file, content in zip(files, (PATCHES, few), strict=True):
        features_file.write(file, content)
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    names = f"{files[0]},{files[1]}"
    task, _ = given_task(names, epath.Path(tmp_path), mesh, (ALL, ALL), 0)
    assert task.test.labels.tolist() == [0, 2, 2, 0, 2]
    assert task.name == f"{files[0]} and {files[1]}"


def test_patches_are_given_as_they_are_or_averaged(tmp_path):
    task = given(tmp_path, PATCHES)
    np.testing.assert_array_equal(task.features(task.train, patches=True)[0], PATCHES.features)
    np.testing.assert_array_equal(task.features(task.test)[0], PATCHES.features.mean(1))
    with pytest.raises(UserError, match=r"one layer: set .* --set=linear_sweep\.layers=1"):
        task.features(task.train, layers=4)
    pooled = given(tmp_path, CONTENTS["pooled"], CONTENTS["pooled"])
    with pytest.raises(UserError, match="no features of patches: extract them"):
        pooled.features(pooled.train, patches=True)


def test_files_of_features_are_no_images(tmp_path):
    given(tmp_path, PATCHES)
    files = [f"{tmp_path}/train.npz,{tmp_path}/test.npz"]
    asked = Evaluation([], ["transfer"], None, out=str(tmp_path / "out"), features=files)
    with pytest.raises(UserError, match="transfer needs images"):
        evaluate(asked)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"labels": None}, "has no labels"),
        ({"labels": PATCHES.labels - 1}, "labels go from -1 to 1: number the classes from 0"),
        ({"classes": ("cat", "bird", "cow")}, "has classes that .* lacks: cow"),
    ],
)
def test_test_files_that_do_not_fit(tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint):
        given(tmp_path, PATCHES._replace(**change))
