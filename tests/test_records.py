"""ArrayRecord files and TFDS data sets: the right entries of a record, and what is refused."""

import io
import multiprocessing
import operator
import pickle
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from jepa_jax.config import defaults
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError

CLASSES = ("cat", "dog")
PAIR = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "label": tfds.features.ClassLabel(names=CLASSES),
}


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def write_tfds(folder, splits, spec=PAIR, shards=1):
    """Writes what TFDS would: {split: [{entry: value}]} in files of a folder name/version."""
    folder.mkdir(parents=True)
    features, name, infos = tfds.features.FeaturesDict(spec), folder.parent.name, []
    for split, examples in splits.items():
        records = [features.serialize_example(features.encode_example(e)) for e in examples]
        parts = [list(part) for part in np.array_split(np.array(records, object), shards)]
        for i, part in enumerate(parts):
            file = f"{name}-{split}.array_record-{i:05}-of-{shards:05}"
            write_records(folder / file, part)
        lengths = [len(part) for part in parts]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
    return folder


def pets(count=6):
    """Images and labels, in the order in which class folders would be read."""
    half = count // 2
    return [{"image": io.BytesIO(png(i)), "label": int(i >= half)} for i in range(count)]


def tf_example(**entries):
    """An Example of bytes and whole numbers; '__' in a name stands for '/'."""
    message = tf_example_pb2.Example()
    for key, value in entries.items():
        feature = message.features.feature[key.replace("__", "/")]
        kind = feature.bytes_list if isinstance(value, bytes) else feature.int64_list
        kind.value.append(value)
    return message.SerializeToString()


def settings(source, path, **changes):
    data = defaults().data
    with data.unlocked():
        data.update(source=source, path=str(path), **changes)
    return data


def read_tfds(root, name="pets", split="train", **changes):
    return open_source(settings("tfds", root, name=name, **changes), split)


def read_records(path, **changes):
    return open_source(settings("array_record", path, **changes), "train")


def labels(source):
    return source.labels(np.arange(len(source))).tolist()


def contents(source):
    return [(source[i].image, source[i].label) for i in range(len(source))]


# Both


def test_the_same_images_come_through_every_source(tmp_path):
    images = [(f"{CLASSES[e['label']]}/{i}.png", png(i), e["label"]) for i, e in enumerate(pets())]
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    (tmp_path / "folder" / "dog").mkdir()
    for name, data, _ in images:
        (tmp_path / "folder" / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name, _, _ in images:
            file.write(tmp_path / "folder" / name, name)
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "folder", ".")
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()}, shards=2)
    sources = [
        open_source(settings("folder", tmp_path / "folder"), "train"),
        open_source(settings("folder", tmp_path / "a.zip"), "train"),
        open_source(settings("folder", tmp_path / "a.tar"), "train"),
        read_records(folder / "*.array_record-*"),
        read_tfds(tmp_path),
    ]
    for source in sources:
        assert contents(source) == [(data, label) for _, data, label in images]
        assert labels(source) == [0, 0, 0, 1, 1, 1]
        assert source.classes == CLASSES


@pytest.fixture
def source(tmp_path):
    write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets(40)}, shards=3)
    return read_tfds(tmp_path, split="train[10:]")


def test_name_tells_file_and_position(source, tmp_path):
    file = f"{tmp_path}/pets/1.0.0/pets-train.array_record-00000-of-00003"
    assert source[0].name == f"{file}[10]"
    assert source[4].name == file.replace("00000-", "00001-") + "[0]"


def test_records_can_be_pickled(source):
    before = contents(source)
    copy = pickle.loads(pickle.dumps(source))
    assert contents(copy) == before
    assert labels(copy) == labels(source)


def test_many_threads_may_read_records(source):
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: source[i].image, list(range(30)) * 5))
    assert read == [png(i) for i in range(10, 40)] * 5


def test_spawned_process_may_read_records(source):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(operator.getitem, source, 3).result() == source[3]


def test_records_are_read_without_tensorflow(source, tmp_path):
    (tmp_path / "source").write_bytes(pickle.dumps(source))
    script = f"""
import pathlib, pickle, sys
source = pickle.loads(pathlib.Path({str(tmp_path / "source")!r}).read_bytes())
assert source[12].label == source.labels([12])[0] == 1
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_damaged_record_is_named_and_the_others_can_be_read(tmp_path):
    blobs = [b"\xff\xd8\xff" + np.random.default_rng(i).bytes(30_000) for i in range(5)]
    path = write_records(tmp_path / "a.array_record", blobs)
    data = bytearray(path.read_bytes())
    for damaged in (0, 3):  # not even the first one stops the run
        data[data.find(blobs[damaged][1000:1040])] ^= 1
    path.write_bytes(data)
    source = read_records(path)
    assert [source[i].image for i in (1, 2, 4)] == [blobs[i] for i in (1, 2, 4)]
    for damaged in (0, 3):
        with pytest.raises(UserError, match=rf"a\.array_record\[{damaged}\] can't be read"):
            source[damaged]


# Which entry is what


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


# ArrayRecord files alone


@pytest.mark.parametrize(
    ("record", "label"),
    [
        (tf_example(image=png(), label=3), 3),
        (tf_example(image__encoded=png(), image__class__label=3, image__height=16), 3),
        (tf_example(jpg=png(), cls=3), 3),
        (tf_example(photo=png(), width=16, caption=b"a cat"), None),
        (png(), None),
    ],
)
def test_records_tell_themselves_what_they_hold(tmp_path, record, label):
    source = read_records(write_records(tmp_path / "a.array_record", [record]))
    assert source[0] == (png(), label, f"{tmp_path}/a.array_record[0]")
    assert source.labelled == (label is not None)
    assert source.classes is None


def test_label_key_names_any_whole_number(tmp_path):
    path = write_records(tmp_path / "a", [tf_example(image=png(), species=7, label=1)])
    assert labels(read_records(path, label_key="species")) == [7]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (tf_example(left=png(), right=png()), r"a\[0\] has several images, left, right"),
        (tf_example(pixels=b"raw", label=1), r"a\[0\] has no encoded image, only label, pixels"),
        (b"\x0ano message", r"a\[0\] is neither a tf.train.Example nor an image file"),
    ],
)
def test_records_without_one_image_are_refused(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        read_records(write_records(tmp_path / "a", [record]))


def test_record_that_lacks_the_image_is_named(tmp_path):
    records = [tf_example(image=png()), tf_example(label=1)]
    source = read_records(write_records(tmp_path / "a", records))
    with pytest.raises(UserError, match=r"a\[1\] has 0 images in 'image'"):
        source[1]


def test_files_of_several_folders_are_joined(tmp_path):
    for name, names in (("one", ("cat", "dog")), ("two", ("eel", "cat"))):
        spec = PAIR | {"label": tfds.features.ClassLabel(names=names)}
        write_tfds(tmp_path / name / "1.0.0", {"train": pets(2)}, spec)
    source = read_records(tmp_path / "*" / "1.0.0" / "*.array_record-*")
    assert source.classes == ("cat", "dog", "eel")
    assert labels(source) == [0, 1, 2, 0] == [source[i].label for i in range(4)]


def test_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images"):
        read_records(write_records(tmp_path / "a", []))


def test_other_files_are_no_array_record(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100_000))
    with pytest.raises(UserError, match="isn't a whole ArrayRecord file"):
        read_records(tmp_path / "a")


def test_folder_of_array_record_is_answered_with_a_glob(tmp_path):
    with pytest.raises(
        UserError, match=r"is a folder: name its files, as in .*/\*\.array_record\*"
    ):
        read_records(tmp_path)


def test_broken_features_are_named(tmp_path):
    (tmp_path / "features.json").write_text("{")
    with pytest.raises(UserError, match=r"features\.json can't be understood"):
        read_records(write_records(tmp_path / "a", [png()]))


# TFDS data sets


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
