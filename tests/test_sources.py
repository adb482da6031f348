import subprocess
import sys

import numpy as np
import pytest

from jepa_jax.data.protocol import has_masks
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from tests.opening import labels, read, settings

# Digits


@pytest.mark.parametrize(("split", "test"), [("val", True), ("train", False)])
def test_digits_hold_out_every_fifth(split, test):
    from sklearn.datasets import load_digits

    digits = load_digits()
    kept = [i for i in range(1797) if (i % 5 == 0) == test]
    source = open_source(settings("digits"), split)
    assert len(source) == len(kept)
    assert labels(source) == digits.target[kept].tolist()
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
    assert not source.labelled
    assert source[1].label is None
    np.testing.assert_array_equal(source[1].image, images.reshape(2, 3, 4, -1)[1])


def test_npz_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 2, 2), np.uint8), labels=np.uint8([5, 6, 7]))
    source = read(tmp_path / "a.npz", "npz")
    assert source.labels([2, 0]).dtype == np.int32
    assert source.labels([2, 0]).tolist() == [7, 5]
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
        ({"images": IMAGES, "labels": np.array([0, -1, 2])}, "from 0 to .* go from -1 to 2"),
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


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "packed"])
def test_npz_that_python_cannot_unpack(tmp_path, offset, value):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + offset] = value  # in the directory,
    data[offset - 2] = value  # and in the header of the member
    path.write_bytes(data)
    with pytest.raises(UserError, match="isn't a whole npz file of plain arrays"):
        read(path, "npz")


def test_npz_parts_may_differ_in_size(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3), 1, np.uint8), labels=np.arange(2))
    np.savez(tmp_path / "b.npz", images=np.full((1, 5, 4), 2, np.uint8), labels=np.arange(1))
    source = read(tmp_path / "*.npz", "npz")
    assert [source[i].image.shape for i in range(3)] == [(3, 3, 1), (3, 3, 1), (5, 4, 1)]
    assert labels(source) == [0, 1, 0]


def test_masks_come_through_parts_and_a_validation_split(tmp_path):
    masks = np.arange(10, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    for name, part in (("a", slice(4)), ("b", slice(4, 10))):
        np.savez(tmp_path / f"{name}.npz", images=masks[part] * 20, masks=masks[part])
    data = settings("npz", tmp_path / "*.npz")
    data.validation = 0.3
    for split, count in (("train", 7), ("val", 3)):
        source = open_source(data, split)
        assert has_masks(source)
        assert len(source) == count
        for i in range(count):
            np.testing.assert_array_equal(source.mask(i)[..., None] * 20, source[i].image)
    np.savez(tmp_path / "c.npz", images=masks)
    assert not has_masks(open_source(data, "train"))


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
    with pytest.raises(UserError, match=r"'tdfs' is unknown: digits, npz, .*did you mean 'tfds'"):
        open_source(settings("tdfs"), "train")


def test_what_is_slow_to_import_waits_until_it_is_needed():
    script = "import sys, jepa_jax.data.sources; print(*sys.modules)"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    loaded = {name.split(".")[0] for name in made.stdout.decode().split()}
    assert not loaded & {"tensorflow_datasets", "array_record", "sklearn", "jax"}
