import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ml_collections import ConfigDict

from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError


def settings(source, path=""):
    return ConfigDict(
        {"source": source, "path": str(path), "train_split": "train", "test_split": "val"}
    )


@pytest.fixture(params=["folder", "zip"])
def lay_out(request, tmp_path):
    """Puts files, whose bytes are their names, into a folder or a zip file; gives its path."""

    def put(*names, place="train"):
        if request.param == "zip":
            path = tmp_path / f"{place}.zip"
            with zipfile.ZipFile(path, "w") as file:
                for name in names:
                    file.writestr(name, name)
            return path
        path = tmp_path / place
        path.mkdir()
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(name)
        return path

    return put


def read(path, source="folder", split="train"):
    return open_source(settings(source, path), split)


def contents(source):
    return [source[i].image.decode() for i in range(len(source))]


# Digits


@pytest.mark.parametrize(("split", "test"), [("val", True), ("train", False)])
def test_digits_hold_out_every_fifth(split, test):
    from sklearn.datasets import load_digits

    digits = load_digits()
    kept = [i for i in range(1797) if (i % 5 == 0) == test]
    source = open_source(settings("digits"), split)
    assert len(source) == len(kept)
    np.testing.assert_array_equal(source.labels, digits.target[kept])
    image = source[17].image
    assert (image.shape, image.dtype) == ((8, 8, 1), np.uint8)
    assert np.abs(image[..., 0] - digits.images[kept[17]] * 255 / 16).max() <= 0.5
    assert source[17].name == "digits[17]"
    assert source.classes == tuple("0123456789")


def test_digits_without_that_split():
    with pytest.raises(UserError, match="no split 'test': the config names 'train' and 'val'"):
        open_source(settings("digits"), "test")


# Npz


@pytest.mark.parametrize("channels", [(), (1,), (4,)])
def test_npz_images(tmp_path, channels):
    images = np.arange(24 * (channels or (1,))[0], dtype=np.uint8).reshape(2, 3, 4, *channels)
    np.savez(tmp_path / "train.npz", images=images)
    source = read(tmp_path / "{split}.npz", "npz")
    assert len(source) == 2
    assert source.labels is None
    assert source[1].label is None
    np.testing.assert_array_equal(source[1].image, images.reshape(2, 3, 4, -1)[1])


def test_npz_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2, 2), np.uint8), labels=np.uint8([5, 6, 7]))
    source = read(tmp_path / "a.npz", "npz")
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [5, 6, 7]
    assert [source[i].label for i in range(3)] == [5, 6, 7]
    assert source[2].name == f"{tmp_path / 'a.npz'}[2]"


IMAGES = np.zeros((3, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES, "y": IMAGES}, r"no array 'images', only \['x_train', 'y'\]"),
        ({"images": IMAGES.astype(np.float32)}, r"but are float32 \(3, 2, 2\)"),
        ({"images": IMAGES[0]}, r"but are uint8 \(2, 2\)"),
        ({"images": IMAGES[:0]}, r"but are uint8 \(0, 2, 2\)"),
        ({"images": IMAGES, "labels": np.arange(4)}, r"each of the 3 images.*int64 \(4,\)"),
        ({"images": IMAGES, "labels": np.ones(3)}, "labels must be integers"),
        ({"images": np.array([IMAGES, None], object)}, "npz file of plain arrays"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "a.npz", "npz")
    assert str(tmp_path / "a.npz") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "npy"])
def test_npz_that_is_no_npz(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    whole = path.read_bytes()
    np.save(tmp_path / "a.npy", IMAGES)
    npy = (tmp_path / "a.npy").read_bytes()
    path.write_bytes({"cut": whole[:-30], "empty": b"", "text": b"hello", "npy": npy}[damage])
    with pytest.raises(UserError, match="isn't a whole npz file"):
        read(path, "npz")


# Folders and zip files


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
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [0, 0, 1, 1, 2] == [source[i].label for i in range(5)]


def test_only_visible_images_count(lay_out):
    names = ["cat/a.jpg", "dog/b.jpg", ".DS_Store", "dog/.c.jpg", ".trash/d.jpg", "notes.txt"]
    source = read(lay_out(*names, "__MACOSX/dog/._b.jpg"))
    assert contents(source) == ["cat/a.jpg", "dog/b.jpg"]


def test_single_outer_folders_are_stepped_into(lay_out):
    source = read(lay_out("data/train/cat/a.jpg", "data/train/dog/b.jpg", "README.md"))
    assert source.classes == ("cat", "dog")


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_flat_images_have_no_labels(lay_out, prefix):
    source = read(lay_out(f"{prefix}b.jpg", f"{prefix}a.jpg"))
    assert contents(source) == [f"{prefix}a.jpg", f"{prefix}b.jpg"]
    assert source.labels is source.classes is source[0].label is None


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
    np.testing.assert_array_equal(copy.labels, source.labels)


def test_many_threads_may_read_one_zip(tmp_path):
    blobs = [np.random.default_rng(i).bytes(3000 + i) for i in range(100)]
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for i, blob in enumerate(blobs):
            file.writestr(f"{i:03}.jpg", blob)
    source = read(tmp_path / "a.zip")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: source[i].image, list(range(100)) * 5)) == blobs * 5


def test_broken_zip_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"a\.zip isn't a whole zip file"):
        read(tmp_path / "a.zip")


def test_damaged_member_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.jpg", "some pixels")
    path.write_bytes(path.read_bytes().replace(b"some pixels", b"same pixels"))
    with pytest.raises(UserError, match=r"a\.zip/a\.jpg is damaged"):
        read(path)[0]


def test_file_that_vanished_is_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    source = read(tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg can't be read: No such file"):
        source[0]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(UserError, match=r"a\.tar is neither a folder nor a \.zip"):
        read(tmp_path / "a.tar")


# Several parts


def test_parts_are_joined_and_their_classes_merged(tmp_path, lay_out):
    first = lay_out("dog/1.jpg", "cat/2.jpg", place="train_1")
    lay_out("eel/3.jpg", "cat/4.jpg", place="train_2")
    lay_out("cat/5.jpg", "dog/6.jpg", place="val_1")
    source = read(tmp_path / f"{{split}}_*{first.suffix}")
    assert contents(source) == ["cat/2.jpg", "dog/1.jpg", "cat/4.jpg", "eel/3.jpg"]
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels.tolist() == [0, 1, 0, 2] == [source[i].label for i in range(4)]
    with pytest.raises(IndexError):
        source[4]


def test_npz_parts_may_differ_in_size(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3), 1, np.uint8), labels=np.arange(2))
    np.savez(tmp_path / "b.npz", images=np.full((1, 5, 4), 2, np.uint8), labels=np.arange(1))
    source = read(tmp_path / "*.npz", "npz")
    assert [source[i].image.shape for i in range(3)] == [(3, 3, 1), (3, 3, 1), (5, 4, 1)]
    assert source.labels.tolist() == [0, 1, 0]


def test_half_labelled_parts_are_refused(tmp_path, lay_out):
    lay_out("cat/1.jpg", "dog/2.jpg", place="a")
    path = lay_out("3.jpg", place="b")
    with pytest.raises(UserError, match=r"3\.jpg has no label"):
        read(tmp_path / f"?{path.suffix}")


# Paths


def test_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jpg").touch()
    assert len(read("~/")) == 1


def test_path_with_brackets_is_taken_literally_if_it_is_there(tmp_path):
    for name in ("set[1]", "set1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").touch()
    assert read(tmp_path / "set[1]")[0].name.endswith("/set[1].jpg")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("imagent/{split}", "did you mean .*/imagenet[?]$"),
        ("imagenet/{split}", "imagenet has training$"),
        ("imagenet/{split}/a/b", "imagenet has training$"),
        ("imagenet/trial", "stands for the split's name$"),
        ("imagenet/x*", "matches nothing: .*imagenet has training"),
    ],
)
def test_path_that_is_not_there(tmp_path, path, message):
    (tmp_path / "imagenet" / "training").mkdir(parents=True)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / path, split="val")
    assert path.split("/")[0] in str(error.value)
    assert "\n" not in str(error.value)


def test_split_without_a_name_is_refused():
    with pytest.raises(UserError, match="no split to open"):
        open_source(settings("digits"), "")


def test_unknown_source_is_refused():
    with pytest.raises(UserError, match="'tar' is unknown: digits, npz or folder"):
        open_source(settings("tar"), "train")


def test_links_that_go_round_in_circles_are_followed_once(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert len(open_source(settings("folder", tmp_path), "train")) == 2
