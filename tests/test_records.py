"""ArrayRecord files and the records in them: the right entries, and what is refused."""

import multiprocessing
import operator
import os
import pickle
import resource
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jepa_jax.data.broken import read_sound
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from tests.recording import (
    CLASSES,
    PAIR,
    contents,
    labels,
    pets,
    png,
    read_records,
    read_tfds,
    settings,
    tf_example,
    write_records,
    write_tfds,
)

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


@pytest.mark.parametrize("junk", [b"", b"\x0ano message", tf_example(label=1)])
def test_first_record_of_junk_does_not_refuse_the_file(tmp_path, junk):
    records = [junk, tf_example(image=png(), label=3)]
    source = read_records(write_records(tmp_path / "a.array_record", records))
    assert source[1] == (png(), 3, f"{tmp_path}/a.array_record[1]")
    with pytest.raises(UserError, match=r"a\.array_record\[0\] "):
        source[0]


def test_first_record_of_junk_does_not_hide_the_labels_of_a_data_set(tmp_path):
    folder = write_tfds(tmp_path / "pets" / "1.0.0", {"train": pets()})
    records = [b"", *(tf_example(image=png(), label=1) for _ in range(5))]
    write_records(folder / "pets-train.array_record-00000-of-00001", records)
    source = read_tfds(tmp_path)
    assert source.labelled
    assert source.classes == CLASSES
    assert source.labels([1, 5]).tolist() == [1, 1]


@pytest.fixture
def limit():
    """Sets how many files may be open: what a process may raise by itself, and what not."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower(soft, hard=before[1]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    yield lower
    lower(before[0])


def many_shards(tmp_path, count=80):
    for i in range(count):
        write_records(tmp_path / f"{i:03}.array_record", [png(i)])
    return tmp_path / "*.array_record"


def test_more_shards_may_be_open_than_a_process_is_given(tmp_path, limit):
    shards = many_shards(tmp_path)
    limit(len(os.listdir("/proc/self/fd")) + 40)
    assert [image for image, _ in contents(read_records(shards))] == [png(i) for i in range(80)]


def test_too_many_shards_for_a_process_are_refused(tmp_path, monkeypatch):
    shards = many_shards(tmp_path, 3)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (258, 258))
    with pytest.raises(UserError, match=r"may have 258 files open .*: raise the limit"):
        read_records(shards)


def test_no_image_is_replaced_because_too_many_files_are_open(tmp_path, limit):
    source = read_records(many_shards(tmp_path, 2))
    limit(3)  # fewer than are open already
    with pytest.raises(UserError, match=r"files open here, too few for these images"):
        read_sound(source, 1, lambda example: example.image)


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


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (tf_example(left=png(), right=png()), r"a\[0\] has several images, left, right"),
        (tf_example(pixels=b"raw", label=1), r"a\[0\] has no encoded image, only label, pixels"),
        (b"\x0ano message", r"a\[0\] is neither a tf.train.Example nor an image file"),
    ],
    ids=["several", "none", "no record"],
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
