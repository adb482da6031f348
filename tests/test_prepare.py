"""Any source becomes a data set that TFDS reads; stops, kills and broken images do no harm."""

import io
import os
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from jepa_jax.data.prepare import display
from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.data.prepare.plan import Request, make_plan
from jepa_jax.data.prepare.run import FINISHED, STOPPED, Means, prepare
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
NOISE = np.random.default_rng(0).integers(0, 256, (600, 100, 100, 3), np.uint8)


def source(path, kind: str = "folder") -> ConfigDict:
    return ConfigDict(
        {"source": kind, "path": str(path), "train_split": "train", "test_split": "test"}
    )


def request(data: ConfigDict, to: pathlib.Path, splits=("train",), held_out=0.0, **encoding):
    return Request(data, to, tuple(splits), Encoding(**encoding), held_out, shard_mb=1)


def means(stop=False, max_broken=0.01) -> Means:
    return Means(workers=1, max_broken=max_broken, stop=stop)


def records(path: pathlib.Path, split: str) -> dict[str, dict]:
    """What TFDS reads, by file name."""
    builder = tfds.builder_from_directory(path / "1.0.0")
    raw = {"image": tfds.decode.SkipDecoding()}
    found = list(builder.as_data_source(split, decoders=raw))
    assert len(found) == builder.info.splits[split].num_examples
    return {record["file_name"].decode(): record for record in found}


def classes(path: pathlib.Path):
    return tfds.builder_from_directory(path / "1.0.0").info.features["label"]


def files(path: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def encoded(pixels: np.ndarray, format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def save(path: pathlib.Path, images: dict[str, bytes]) -> pathlib.Path:
    for name, content in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


PHOTOS = {
    f"{kind}/{number}.{format}": encoded(NOISE[number, :20, :30], format)
    for number, (kind, format) in enumerate(
        [(kind, format) for kind in ("cat", "dog") for format in ("jpeg", "png", "webp", "gif")]
    )
}


# What TFDS reads


@pytest.fixture(scope="module", params=["folder", "zip"])
def photos(request, tmp_path_factory) -> pathlib.Path:
    """Eight photos of two classes in a folder or a zip file."""
    path = tmp_path_factory.mktemp("photos")
    if request.param == "folder":
        return save(path / "pets", PHOTOS)
    with zipfile.ZipFile(path / "pets.zip", "w") as file:
        for name, content in PHOTOS.items():
            file.writestr(name, content)
    return path / "pets.zip"


def test_files_keep_their_bytes_and_names_and_labels(photos, tmp_path, capsys):
    assert prepare(request(source(photos), tmp_path / "pets", held_out=0.25), means()) == FINISHED
    train, val = (records(tmp_path / "pets", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    found = train | val
    assert {name: record["image"] for name, record in found.items()} == {
        f"{photos.name}/{name}": content for name, content in PHOTOS.items()
    }
    assert classes(tmp_path / "pets").names == ["cat", "dog"]
    for name, record in found.items():
        assert record["label"] == ("/dog/" in name)
    assert [path.name for path in (tmp_path / "pets").iterdir()] == ["1.0.0"]
    assert 'c.data.name = "pets:1.0.0"' in capsys.readouterr().out


def test_images_without_labels(tmp_path):
    flat = save(tmp_path / "flat", {name.replace("/", "_"): c for name, c in PHOTOS.items()})
    assert prepare(request(source(flat), tmp_path / "set"), means()) == FINISHED
    found = records(tmp_path / "set", "train")
    assert len(found) == 8
    assert all(set(record) == {"image", "file_name"} for record in found.values())


def test_digits_become_png(tmp_path):
    wanted = request(source("", "digits"), tmp_path / "digits", ["train", "test"])
    assert prepare(wanted, means()) == FINISHED
    digits = load_digits()
    keep = np.arange(1797) % 5 == 0
    found = records(tmp_path / "digits", "test")
    assert len(found) == keep.sum()
    assert len(records(tmp_path / "digits", "train")) == (~keep).sum()
    image = np.asarray(Image.open(io.BytesIO(found["digits[17]"]["image"])))
    assert np.abs(image - digits.images[keep][17] * 255 / 16).max() <= 0.5
    assert found["digits[17]"]["label"] == digits.target[keep][17]
    assert classes(tmp_path / "digits").names == list("0123456789")
    decoded = tfds.builder_from_directory(tmp_path / "digits" / "1.0.0").as_data_source("test")
    assert decoded[0]["image"].shape == (8, 8, 1)


def test_labels_without_names_are_counted(tmp_path):
    np.savez(tmp_path / "a.npz", images=NOISE[:4], labels=np.array([0, 3, 1, 3]))
    assert prepare(request(source(tmp_path / "a.npz", "npz"), tmp_path / "set"), means()) == 0
    found = records(tmp_path / "set", "train")
    assert [found[f"a.npz[{i}]"]["label"] for i in range(4)] == [0, 3, 1, 3]
    assert classes(tmp_path / "set").num_classes == 4


# Stops and kills


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> ConfigDict:
    """Images of so many bytes that a megabyte holds a few."""
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(path, images=NOISE)
    return source(path, "npz")


@pytest.fixture(scope="module")
def whole(noise, tmp_path_factory) -> pathlib.Path:
    """The data set of it, made without a stop."""
    path = tmp_path_factory.mktemp("whole") / "noise"
    assert prepare(request(noise, path), means()) == FINISHED
    return path


def command(noise: ConfigDict, to: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "launch/prepare.py", f"--from={noise.path}"),
            *(f"--to={to}", "--shard_mb=1", "--workers=2"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def begun(path: pathlib.Path) -> list[pathlib.Path]:
    """The finished shards of an unfinished data set."""
    about = path.glob("unfinished/*-of-*.json")
    return [path / "unfinished" / "1.0.0" / file.stem for file in about]


def test_a_killed_command_goes_on(noise, whole, tmp_path):
    path = tmp_path / "noise"
    with command(noise, path) as process:
        while not begun(path):
            time.sleep(0.005)
            assert process.poll() is None
        process.kill()
    assert not (path / "1.0.0").exists()
    with command(noise, path) as process:
        output = process.communicate(timeout=120)[0]
    assert process.returncode == FINISHED, output
    assert "of which are missing" in output
    assert files(path) == files(whole)


class OneShard:
    """Asks to stop when a shard is finished."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __bool__(self):
        return bool(begun(self.path))


def test_a_stopped_one_goes_on_and_mends_what_is_not_whole(noise, whole, tmp_path, capsys):
    path = tmp_path / "noise"
    assert prepare(request(noise, path), means(OneShard(path))) == STOPPED
    assert "the same command goes on" in capsys.readouterr().out
    os.truncate(begun(path)[0], 100)  # as after a power cut
    assert prepare(request(noise, path), means()) == FINISHED
    assert files(path) == files(whole)


def test_what_is_begun_goes_on_with_the_same_options_only(noise, tmp_path):
    path = tmp_path / "noise"
    assert prepare(request(noise, path), means(stop=True)) == STOPPED
    with pytest.raises(UserError, match=r"another data set \(short_side: 0 -> 64\)"):
        prepare(request(noise, path, short_side=64), means())


def test_what_is_begun_goes_on_with_the_same_source_only(tmp_path):
    np.savez(tmp_path / "a.npz", images=NOISE)
    wanted = request(source(tmp_path / "a.npz", "npz"), tmp_path / "set")
    assert prepare(wanted, means(stop=True)) == STOPPED
    np.savez(tmp_path / "a.npz", images=255 - NOISE[1:])
    with pytest.raises(UserError, match=r"train images: 600 -> 599; train content: "):
        prepare(wanted, means())


def test_a_finished_data_set_says_so(noise, whole, capsys):
    before = files(whole)
    assert prepare(request(noise, whole), means()) == FINISHED
    output = capsys.readouterr().out
    assert "is finished" in output
    assert "c.data.source" in output
    assert files(whole) == before
    with pytest.raises(UserError, match=r"another data set \(format: None -> webp\)"):
        prepare(request(noise, whole, format="webp"), means())


def test_a_data_set_of_another_program_is_let_alone(noise, tmp_path):
    (tmp_path / "noise" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="made by another program: choose another --to"):
        prepare(request(noise, tmp_path / "noise"), means())


# Broken images


@pytest.fixture
def damaged(tmp_path) -> pathlib.Path:
    """Eight photos, of which one is cut short and one is none."""
    cut = PHOTOS["cat/0.jpeg"][:-20]
    return save(tmp_path / "pets", PHOTOS | {"cat/0.jpeg": cut, "dog/5.png": b"no image"})


def test_broken_images_are_left_out_and_named(damaged, tmp_path, capsys):
    assert prepare(request(source(damaged), tmp_path / "set"), means(max_broken=0.25)) == FINISHED
    found = records(tmp_path / "set", "train")
    assert set(found) == {f"pets/{name}" for name in PHOTOS} - {"pets/cat/0.jpeg", "pets/dog/5.png"}
    output = capsys.readouterr().out
    assert "2 left out" in output
    for name in ("cat/0.jpeg", "dog/5.png"):
        assert f"{damaged}/{name} can't be read" in output


def test_too_many_broken_images_stop_it(damaged, tmp_path):
    with pytest.raises(UserError, match=r"2 of 8 images can't be used.*pets/.*can't be read"):
        prepare(request(source(damaged), tmp_path / "set"), means())


def test_without_the_check_broken_images_are_kept(damaged, tmp_path):
    assert prepare(request(source(damaged), tmp_path / "set", check=False), means()) == FINISHED
    assert records(tmp_path / "set", "train")["pets/dog/5.png"]["image"] == b"no image"


# One image


def example(image) -> Example:
    return Example(image, None, "photo")


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


WIDE = encoded(NOISE[0, :60, :90], "jpeg")


def test_larger_images_are_shrunk_to_the_short_side():
    small = opened(Encoding(short_side=20)(example(WIDE)))
    assert (small.format, small.size) == ("JPEG", (30, 20))


def test_small_images_of_the_right_format_keep_their_bytes():
    assert Encoding(short_side=60, format="jpeg", quality=1)(example(WIDE)) is WIDE


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_other_formats_are_encoded_anew(format):
    gif = encoded(NOISE[0], "gif")
    assert opened(Encoding(format=format)(example(gif))).format == format.upper()


def test_a_format_that_is_no_choice_becomes_png():
    assert opened(Encoding(short_side=20)(example(encoded(NOISE[0], "gif")))).format == "PNG"


def test_the_orientation_is_applied_where_it_would_be_lost():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(NOISE[0, :60, :90], "jpeg", exif=exif)
    assert opened(Encoding(short_side=20)(example(turned))).size == (20, 30)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = opened(Encoding(short_side=8)(example(encoded(stripes, "png"))))
    assert small.mode == "L"
    assert np.abs(np.asarray(small)[:, 1:-1] - 127.5).max() < 2


def test_lower_quality_is_smaller():
    sizes = [len(Encoding(format="jpeg", quality=q)(example(NOISE[0]))) for q in (20, 90)]
    assert sizes[0] < sizes[1] / 2


def test_arrays_are_stored_without_loss():
    np.testing.assert_array_equal(np.asarray(opened(Encoding()(example(NOISE[0])))), NOISE[0])
    with pytest.raises(UserError, match="photo has 4 channels: image files have 1 or 3"):
        Encoding()(example(np.zeros((2, 2, 4), np.uint8)))


# The plan


def test_every_image_is_in_one_shard(noise, tmp_path):
    plan = make_plan(request(noise, tmp_path / "noise", held_out=0.1))
    assert plan.images == len(NOISE)
    assert [len(split.order) for split in plan.splits.values()] == [540, 60]
    everything = np.concatenate([plan.indices(shard) for shard in plan.shards])
    assert not np.array_equal(everything, np.arange(len(NOISE)))
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(NOISE)))


def test_shards_are_about_as_large_as_is_asked(whole):
    sizes = [file.stat().st_size for file in (whole / "1.0.0").glob("*.array_record*")]
    assert 0.7e6 < min(sizes) <= max(sizes) < 1.2e6


@pytest.mark.parametrize(("images", "shards"), [(1, 1), (3500, 3), (50_000, 16)])
def test_small_images_make_some_shards_too(tmp_path, images, shards):
    np.savez(tmp_path / "a.npz", images=np.zeros((images, 1, 1), np.uint8))
    plan = make_plan(request(source(tmp_path / "a.npz", "npz"), tmp_path / "set"))
    assert len(plan.shards) == shards


def test_splits_share_their_classes(tmp_path):
    save(tmp_path / "pets" / "train", {"cat/1.png": b"", "dog/1.png": b"", "eel/1.png": b""})
    save(tmp_path / "pets" / "val", {"dog/2.png": b"", "yak/2.png": b""})
    save(tmp_path / "pets" / "rest", {"3.png": b""})
    data = source(tmp_path / "pets" / "{split}")
    plan = make_plan(request(data, tmp_path / "set", ["train", "val", "rest"]))
    assert plan.classes == ("cat", "dog", "eel", "yak")
    shards = {shard.split: shard for shard in plan.shards}
    told = {name: plan.tell(shards[name], plan.splits[name].source[0]) for name in shards}
    assert told == {
        "train": ("train/cat/1.png", 0),
        "val": ("val/dog/2.png", 1),
        "rest": ("rest/3.png", -1),
    }


def test_splits_are_not_taken_for_classes(tmp_path):
    save(tmp_path / "pets", {"train/1.png": b"", "val/2.png": b""})
    with pytest.raises(UserError, match=r"no classes but splits in it: give --from=WHERE/{split}"):
        make_plan(request(source(tmp_path / "pets"), tmp_path / "set"))


# What is shown


@pytest.mark.parametrize(("terminal", "shown"), [(True, "━"), (False, "images 5/5  ")])
def test_progress_is_a_bar_or_lines(monkeypatch, terminal, shown):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    monkeypatch.setattr(display, "_console", console)
    with display.Bar(total=5, start=2) as bar:
        bar.update(5, broken=1)
    assert shown in output.getvalue()
    assert "1 broken" in output.getvalue()


def test_many_classes_and_broken_images_are_cut_short():
    split = {"shards": [78], "bytes": 7, "classes": {f"class {n}": n for n in range(1, 13)}}
    output = io.StringIO()
    table = display.result_table({"splits": {"train": split}})
    Console(file=output, width=80).print(table)
    assert "class 12" in output.getvalue()
    assert re.search(r"2 others +│ +3 ", output.getvalue())  # 1 and 2
    lines = display.broken_list([f"{n}.png can't be read" for n in range(30)]).splitlines()
    assert lines[0] == "30 left out:"
    assert len(lines) == 22


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=photos"], "say what to read and where to write"),
        (["--from=photos", "--config=configs/digits.py", "--to=data/x"], "say what to read"),
        (["--from=photos", "--to=data/My-Photos"], "must end with a name for the data set"),
        (["--from=no_photos", "--to=data/photos"], "'no_photos' isn't there"),
        (["--from=p/{split}", "--to=data/p", "--held_out=0.1"], "leave it out, or give --splits"),
        (["--from=photos", "--to=data/photos", "--format=gif"], "jpeg|png|webp"),
    ],
)
def test_wrong_input_is_answered_in_one_line(arguments, message):
    result = subprocess.run(
        [sys.executable, "launch/prepare.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (ROOT / "data").exists()
