"""Which entry of a record is the image, which the label, and what the classes are."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jepa_jax.errors import UserError
from tests.recording import (
    PAIR,
    labels,
    pets,
    png,
    read_records,
    read_tfds,
    tf_example,
    write_records,
    write_tfds,
)


@pytest.mark.parametrize(
    "spec",
    [
        {"image": tfds.features.Image(), "thumbnail": tfds.features.Image()},
        {"photo": tfds.features.Image(), "mask": tfds.features.LabeledImage(labels=3)},
        {"photo": tfds.features.Image(), "faces": tfds.features.Sequence(tfds.features.Image())},
        {"views": {"front": tfds.features.Image()}},
    ],
)
def test_the_image_is_found_by_kind_or_name(tmp_path, spec):
    def value(feature, seed):
        if isinstance(feature, dict):
            return {key: value(entry, seed) for key, entry in feature.items()}
        if isinstance(feature, tfds.features.Sequence):
            return []
        seed += isinstance(feature, tfds.features.LabeledImage)
        return io.BytesIO(png(seed))

    examples = [{key: value(entry, i) for i, (key, entry) in enumerate(spec.items())}]
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": examples}, spec)
    source = read_tfds(tmp_path)
    assert source[0].image == png(0)
    assert not source.labelled


def test_one_of_several_images_must_be_named(tmp_path):
    spec = {"left": tfds.features.Image(), "right": tfds.features.Image()}
    example = {"left": io.BytesIO(png(1)), "right": io.BytesIO(png(2))}
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": [example]}, spec)
    with pytest.raises(UserError, match=r"several images, left, right: name one in data.image_key"):
        read_tfds(tmp_path)
    with pytest.raises(UserError, match=r"data.image_key='rigth' isn't in .*mean 'right'"):
        read_tfds(tmp_path, image_key="rigth")
    assert read_tfds(tmp_path, image_key="right")[0].image == png(2)


def test_one_of_several_labels_must_be_named(tmp_path):
    both = {"breed": tfds.features.ClassLabel(names=["a", "b", "c"])} | PAIR
    both["kind"] = both.pop("label")
    example = {"image": io.BytesIO(png()), "kind": 0, "breed": 2}
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": [example]}, both)
    with pytest.raises(UserError, match=r"several labels, breed, kind: name one in data.label_key"):
        read_tfds(tmp_path)
    source = read_tfds(tmp_path, label_key="breed")
    assert (source.classes, source[0].label) == (("a", "b", "c"), 2)


def test_data_set_without_images_is_refused(tmp_path):
    spec = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": [{"text": "a cat", "label": 0}]}, spec)
    with pytest.raises(UserError, match=r"1\.0\.0 has no image, only .*text"):
        read_tfds(tmp_path)


@pytest.mark.parametrize("count", [2, None])
def test_classes_without_names_have_none(tmp_path, count):
    spec = PAIR | {"label": tfds.features.ClassLabel(num_classes=2)}
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()}, spec)
    if count is None:  # which TFDS allows, but does not write
        features = (folder / "features.json").read_text()
        (folder / "features.json").write_text(features.replace('"numClasses": "2"', ""))
    source = read_tfds(tmp_path)
    assert source.classes is None
    assert labels(source) == [0, 0, 0, 1, 1, 1]


def test_secret_labels_are_none(tmp_path):
    hidden = [example | {"label": -1} for example in pets()]
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": hidden})
    source = read_tfds(tmp_path)
    assert not source.labelled
    assert source.classes is source[0].label is None


def test_single_missing_label_is_named_when_it_is_asked_for(tmp_path):
    examples = pets()
    examples[4]["label"] = -1
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": examples})
    source = read_tfds(tmp_path)
    assert source[4].label is None
    assert source.labels([3, 5]).tolist() == [1, 1]
    with pytest.raises(UserError, match=r"-00001\[4\] has no label but other images have"):
        labels(source)


def test_label_out_of_range_is_named(tmp_path):
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    records = [tf_example(image=png(), label=label) for label in (0, 1, 2, 0, 0, 0)]
    write_records(folder / "pets-train.array_record-00000-of-00001", records)
    source = read_tfds(tmp_path)
    with pytest.raises(UserError, match=r"-00001\[2\] has the label 2, but the last class is 1"):
        source.labels([1, 2])
    with pytest.raises(UserError, match="has the label 2"):
        source[2]


def test_label_key_names_any_whole_number(tmp_path):
    path = write_records(tmp_path / "a", [tf_example(image=png(), species=7, label=1)])
    assert labels(read_records(path, label_key="species")) == [7]


@pytest.mark.parametrize(
    ("entries", "remedy"),
    [({"species": 7, "label": 1}, "name one of label, species"), ({}, "leave it out")],
)
def test_label_key_of_a_text_is_refused(tmp_path, entries, remedy):
    path = write_records(tmp_path / "a", [tf_example(image=png(), name=b"cat", **entries)])
    with pytest.raises(UserError, match=rf"data.label_key='name' is no whole number .*: {remedy}"):
        read_records(path, label_key="name")


def test_label_key_of_a_text_of_a_data_set_is_refused(tmp_path):
    spec = PAIR | {"name": tfds.features.Text(), "age": tfds.features.Scalar(np.int32)}
    example = pets()[0] | {"name": "Tom", "age": 3}
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": [example]}, spec)
    assert labels(read_tfds(tmp_path, label_key="age")) == [3]
    with pytest.raises(
        UserError, match=r"='name' is no whole number in .*: name one of age, label"
    ):
        read_tfds(tmp_path, label_key="name")
