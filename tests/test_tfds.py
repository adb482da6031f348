"""Data sets of TFDS: found by name, version and split, or refused."""

import io
from contextlib import nullcontext

import pytest

from jepa_jax.data.splits import check_overlap
from jepa_jax.errors import UserError
from tests.recording import (
    contents,
    pets,
    png,
    read_tfds,
    settings,
    write_tfds,
)


def test_newest_version_is_taken_unless_one_is_named(tmp_path):
    for version, count in (("2.9.0", 4), ("2.10.0", 6), ("1.0.0", 2)):
        write_tfds(tmp_path / "pets" / version, {"train": pets(count)})
    counts = {"pets": 6, "pets:2.9.0": 4, "pets:1.*.*": 2}
    assert {name: len(read_tfds(tmp_path, name)) for name in counts} == counts


def test_config_and_folder_of_a_data_set(tmp_path):
    folder = write_tfds(tmp_path / "pets" / "small" / "1.0.0", {"train": pets()})
    assert len(read_tfds(tmp_path, "pets/small")) == 6
    assert len(read_tfds(folder, None)) == 6
    with pytest.raises(UserError, match="add one of its configs, as in pets/small"):
        read_tfds(tmp_path)


def test_empty_path_is_where_tfds_keeps_its_own(tmp_path, monkeypatch):
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    assert len(read_tfds("")) == 6


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:50%]", [0, 1, 2]),
        ("train[4:]+test[:1]", [4, 5, 7]),
        ("test", [7, 8]),
        ("all", [7, 8, 0, 1, 2, 3, 4, 5]),
    ],
)
def test_split_expressions(tmp_path, split, numbers):
    test = [{"image": io.BytesIO(png(i)), "label": 0} for i in (7, 8)]
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets(), "test": test}, shards=2)
    images = [image for image, _ in contents(read_tfds(tmp_path, split=split))]
    assert sorted(images) == sorted(png(i) for i in numbers)


@pytest.mark.parametrize(
    ("train", "test", "overlap"),
    [
        ("train", "train[90%:]", True),
        ("train[:60%]", "train[50%:]", True),
        ("all", "test", True),
        ("train[:50%]", "train[50%:]", False),
        ("train", "test", False),
    ],
)
def test_splits_that_overlap_are_refused(tmp_path, train, test, overlap):
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets(20), "test": pets(4)}, shards=2)
    data = settings("tfds", tmp_path, name="pets")
    refused = (
        pytest.raises(UserError, match="would be the same images") if overlap else nullcontext()
    )
    with refused:
        check_overlap(data, train, test)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("pet", "train", "isn't in .*: prepare it with `tfds build pet .*mean 'pets'"),
        ("imagenet2012", "train", "`tfds build imagenet2012 --file_format=array_record --data_dir"),
        ("pets:1.0.1", "train", r"pets has 1\.0\.0; did you mean '1\.0\.0'"),
        (None, "train", "data.name is empty: name a data set of TFDS"),
        ("pets", "trian[:9%]", "has no split 'trian', only train; did you mean 'train'"),
        ("pets", "train+val", "has no split 'val', only train"),
        ("pets", "train[:900]", r"split 'train\[:900\]' of .*incompatible with 6 examples"),
        ("pets", "train[a:b]", r"write it as 'train', 'train\[:90%\]'"),
        ("pets", "train[:0]", r"1\.0\.0 \(train\[:0\]\) holds no images"),
    ],
)
def test_data_sets_that_are_not_there(tmp_path, name, split, message):
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    with pytest.raises(UserError, match=message) as error:
        read_tfds(tmp_path, name, split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("alternative", [False, True])
def test_other_formats_must_be_converted(tmp_path, alternative):
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    info = (folder / "dataset_info.json").read_text()
    other = '"fileFormat": "tfrecord"'
    if alternative:  # as `tfds convert_format` leaves it
        other += ', "alternativeFileFormats": ["array_record"]'
    (folder / "dataset_info.json").write_text(info.replace('"fileFormat": "array_record"', other))
    if alternative:
        assert len(read_tfds(tmp_path)) == 6
        return
    command = f"convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    with pytest.raises(UserError, match=f"prepared as tfrecord.*`tfds {command}`"):
        read_tfds(tmp_path)


def test_missing_file_is_named(tmp_path):
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()}, shards=2)
    (folder / "pets-train.array_record-00001-of-00002").unlink()
    with pytest.raises(UserError, match="array_record-00001-of-00002 is missing"):
        read_tfds(tmp_path)


def test_broken_metadata_is_named(tmp_path):
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"1\.0\.0 can't be understood: prepare it again"):
        read_tfds(tmp_path)
