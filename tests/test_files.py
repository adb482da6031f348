"""Images in folders, zip and tar files: which count, and their classes."""

import errno
import os
import pathlib
import pickle

import numpy as np
import pytest

from jepa_jax.data.broken import Broken, read_sound
from jepa_jax.data.sources import open_source
from jepa_jax.errors import StorageError, UserError
from jepa_jax.training.about import data_identity
from tests.opening import labels, read, settings
from tests.packing import PACKED, contents


@pytest.fixture(params=["folder", "zip", "tar"])
def lay_out(request, tmp_path):
    """Puts files, whose bytes are their names, into a folder or an archive; gives its path."""

    def put(*names, place="train"):
        if request.param in PACKED:
            path = tmp_path / f"{place}.{request.param}"
            return PACKED[request.param](path, {name: name.encode() for name in names})
        path = tmp_path / place
        path.mkdir()
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(name)
        return path

    return put


# Folders, zip and tar files


def test_folders_are_classes(lay_out):
    source = read(lay_out("dog/b.jpg", "dog/a.PNG", "cat/c.jpeg", "cat/old/d.webp", "eel/e.tif"))
    assert contents(source) == [
        "cat/c.jpeg",
        "cat/old/d.webp",
        "dog/a.PNG",
        "dog/b.jpg",
        "eel/e.tif",
    ]
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels([4, 0]).dtype == np.int32
    assert labels(source) == [0, 0, 1, 1, 2] == [source[i].label for i in range(5)]


def test_only_visible_images_count(lay_out):
    names = ["cat/a.jpg", "dog/b.jpg", ".DS_Store", "dog/.c.jpg", ".trash/d.jpg", "notes.txt"]
    source = read(lay_out(*names, "__MACOSX/dog/._b.jpg"))
    assert contents(source) == ["cat/a.jpg", "dog/b.jpg"]


def test_single_outer_folders_are_stepped_into(lay_out):
    source = read(lay_out("data/train/cat/a.jpg", "data/train/dog/b.jpg", "README.md"))
    assert source.classes == ("cat", "dog")


def test_backslashes_of_old_windows_tools_are_slashes(lay_out):
    names = ["pets\\cat\\1.jpg", "pets\\dog\\2.jpg", "pets/cat/3.jpg", "__MACOSX\\cat\\._1.jpg"]
    source = read(lay_out(*names, "pets\\.trash\\4.jpg"))
    assert [name.replace("\\", "/") for name in contents(source)] == [
        "pets/cat/1.jpg",
        "pets/cat/3.jpg",
        "pets/dog/2.jpg",
    ]
    assert source.classes == ("cat", "dog")
    assert labels(source) == [0, 0, 1]


def test_a_colon_in_a_class_is_no_drive(lay_out):
    assert read(lay_out("a: b/1.jpg", "c:d/2.jpg")).classes == ("a: b", "c:d")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_flat_images_have_no_labels(lay_out, prefix):
    source = read(lay_out(f"{prefix}b.jpg", f"{prefix}a.jpg"))
    assert contents(source) == [f"{prefix}a.jpg", f"{prefix}b.jpg"]
    assert not source.labelled
    assert source.classes is source[0].label is None


def test_images_beside_class_folders_are_refused(lay_out):
    with pytest.raises(UserError, match=r"train.* beside class folders: move 'x\.jpg'"):
        read(lay_out("cat/a.jpg", "x.jpg"))


def test_nothing_to_read_is_refused(lay_out):
    with pytest.raises(UserError, match=r"train.* holds no images"):
        read(lay_out("notes.txt"))


def test_example_names_its_file(lay_out):
    path = lay_out("cat/a.jpg", "dog/b.jpg")
    assert read(path)[1].name == f"{path}/dog/b.jpg"


def test_sources_can_be_pickled(lay_out):
    source = read(lay_out("cat/a.jpg", "dog/b.jpg"))
    before = contents(source)
    copy = pickle.loads(pickle.dumps(source))
    assert contents(copy) == before == contents(source)
    assert labels(copy) == labels(source)


def test_file_that_vanished_is_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    source = read(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg can't be read: No such file"):
        source[0]


def failing(monkeypatch, number: int, times: int) -> list[float]:
    """Files refuse so many reads with an error of the operating system; returns the waits."""
    waits, original = [], pathlib.Path.read_bytes

    def read_bytes(path):
        if len(waits) < times:
            raise OSError(number, os.strerror(number), str(path))
        return original(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    monkeypatch.setattr("jepa_jax.data.reading.time.sleep", waits.append)
    return waits


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_storage_that_fails_for_a_while_is_asked_again(tmp_path, monkeypatch, number):
    (tmp_path / "a.jpg").write_bytes(b"a")
    source = read(tmp_path)
    waits = failing(monkeypatch, number, times=3)
    assert source[0].image == b"a"
    assert waits == [1, 2, 4]


def test_storage_that_fails_for_good_is_not_taken_for_broken_images(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"a")
    source = read(tmp_path)
    failing(monkeypatch, errno.ESTALE, times=99)
    broken = Broken(source, 1.0, lambda example: example, print)
    batch = {"broken": np.array([0]), "index": np.array([0])}
    for look in (
        lambda: read_sound(source, 0, lambda example: example, share=1.0),
        lambda: broken.note(batch, 1),
        lambda: data_identity(source),
    ):
        with pytest.raises(StorageError, match="Stale file handle; the same command"):
            look()


def test_a_file_that_may_not_be_read_is_told_at_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"a")
    source = read(tmp_path)
    waits = failing(monkeypatch, errno.EACCES, times=99)
    with pytest.raises(UserError, match=r"a\.jpg can't be read: Permission denied$") as raised:
        source[0]
    assert raised.type is UserError
    assert not waits


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.rar").touch()
    with pytest.raises(UserError, match=r"a\.rar is neither a folder nor a \.zip or \.tar"):
        read(tmp_path / "a.rar")


def test_links_that_go_round_in_circles_are_followed_once(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert len(open_source(settings("folder", tmp_path), "train")) == 2


def test_two_links_to_one_folder_are_two_classes(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_bytes(b"1")
    (tmp_path / "pets").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).symlink_to(tmp_path / "store")
    source = read(tmp_path / "pets")
    assert source.classes == ("cat", "dog")
    assert contents(source) == ["1", "1"]


def test_only_regular_files_count(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    os.mkfifo(tmp_path / "b.jpg")
    assert len(read(tmp_path)) == 1


def test_a_dead_link_is_named(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match=r"a\.jpg can't be read: No such file"):
        read(tmp_path)[0]


# Several parts


def test_parts_are_joined_and_their_classes_merged(tmp_path, lay_out):
    first = lay_out("dog/1.jpg", "cat/2.jpg", place="train_1")
    lay_out("eel/3.jpg", "cat/4.jpg", place="train_2")
    lay_out("cat/5.jpg", "dog/6.jpg", place="val_1")
    source = read(tmp_path / f"{{split}}_*{first.suffix}")
    assert contents(source) == ["cat/2.jpg", "dog/1.jpg", "cat/4.jpg", "eel/3.jpg"]
    assert source.classes == ("cat", "dog", "eel")
    assert labels(source) == [0, 1, 0, 2] == [source[i].label for i in range(4)]
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize(
    ("parts", "classes", "expected"),
    [
        (["cat/1.jpg cat/2.jpg", "cat/3.jpg dog/4.jpg"], ("cat", "dog"), [0, 0, 0, 1]),
        (["cat/1.jpg dog/2.jpg", "eel/3.jpg"], ("cat", "dog", "eel"), [0, 1, 2]),
        (["cat/in/1.jpg cat/out/2.jpg", "cat/in/3.jpg dog/in/4.jpg"], ("cat", "dog"), [0, 0, 0, 1]),
        (["dog/in/1.jpg dog/2.jpg", "cat/3.jpg dog/4.jpg"], ("cat", "dog"), [1, 1, 0, 1]),
        (["a/cat/1.jpg a/dog/2.jpg", "b/dog/3.jpg"], ("cat", "dog"), [0, 1, 1]),
        (["a/all/cat/1.jpg a/all/dog/2.jpg", "b/all/eel/3.jpg"], ("cat", "dog", "eel"), [0, 1, 2]),
        (["cat/1.jpg dog/2.jpg", "b/cat/3.jpg b/dog/4.jpg"], ("cat", "dog"), [0, 1, 0, 1]),
        (
            ["a/cat/1.jpg a/dog/2.jpg", "a/cat/3.jpg", "b/cat/4.jpg b/dog/5.jpg"],
            *(("cat", "dog"), [0, 1, 0, 0, 1]),
        ),
        (["b/1.jpg", "2.jpg", "c/x/3.jpg"], None, None),
        (["a/1.jpg a/2.jpg", "b/1.jpg"], None, None),
    ],
    ids=[
        *("one class", "another class", "deeper", "beside", "own outer", "two outer"),
        *("some outer", "some of several outer", "flat", "each its own"),
    ],
)
def test_class_folders_are_seen_over_all_parts(tmp_path, lay_out, parts, classes, expected):
    for number, names in enumerate(parts):
        path = lay_out(*names.split(), place=f"part_{number}")
    source = read(tmp_path / f"part_*{path.suffix}")
    assert source.classes == classes
    assert (labels(source) if source.labelled else None) == expected


def test_half_labelled_parts_are_refused(tmp_path, lay_out):
    lay_out("cat/1.jpg", "dog/2.jpg", place="a")
    path = lay_out("3.jpg", place="b")
    with pytest.raises(UserError, match=r"3\.jpg has no label"):
        read(tmp_path / f"?{path.suffix}")
