"""Any source becomes a data set that TFDS reads, whatever images are broken."""

import io
import pathlib
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits

from jepa_jax.data.prepare import display
from jepa_jax.data.prepare.run import FINISHED, prepare
from jepa_jax.errors import UserError
from tests.commands import ROOT, refused
from tests.packing import PACKED
from tests.preparing import NOISE, PHOTOS, classes, means, records, request, save, source

# What TFDS reads


@pytest.fixture(scope="module", params=["folder", *PACKED])
def photos(request, tmp_path_factory) -> pathlib.Path:
    """Eight photos of two classes in a folder, a zip or a tar file."""
    path = tmp_path_factory.mktemp("photos")
    if request.param == "folder":
        return save(path / "pets", PHOTOS)
    return PACKED[request.param](path / f"pets.{request.param}", PHOTOS)


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


def test_images_without_labels(tmp_path, capsys):
    flat = save(tmp_path / "flat", {name.replace("/", "_"): c for name, c in PHOTOS.items()})
    assert prepare(request(source(flat), tmp_path / "set"), means()) == FINISHED
    found = records(tmp_path / "set", "train")
    assert len(found) == 8
    assert all(set(record) == {"image", "file_name"} for record in found.values())
    why = "the images of split 'train' have no labels: they are not in folders of several classes"
    assert why in " ".join(capsys.readouterr().out.split())


def test_a_mixture_says_why_it_has_no_labels(tmp_path, capsys):
    save(tmp_path / "pets", PHOTOS)
    np.savez(tmp_path / "a.npz", images=NOISE[:4])
    data = source("", "mixture")
    data.mixture = (
        {"source": "folder", "path": f"{tmp_path}/pets"},
        {"source": "npz", "path": f"{tmp_path}/a.npz"},
    )
    assert prepare(request(data, tmp_path / "set"), means()) == FINISHED
    assert "have no labels: a part of data.mixture" in " ".join(capsys.readouterr().out.split())


def test_digits_become_png(tmp_path):
    wanted = request(source("", "digits", "test"), tmp_path / "digits", ["train", "test"])
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
    with pytest.raises(UserError, match=r"[12] of 8 images can't be used.*pets/.*can't be read"):
        prepare(request(source(damaged), tmp_path / "set"), means())


def test_without_the_check_broken_images_are_kept(damaged, tmp_path):
    assert prepare(request(source(damaged), tmp_path / "set", check=False), means()) == FINISHED
    assert records(tmp_path / "set", "train")["pets/dog/5.png"]["image"] == b"no image"


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
    assert message in refused("prepare", *arguments, timeout=60)
    assert not (ROOT / "data").exists()
