"""Which examples go to which shard, and what is refused before any work."""

import numpy as np
import pytest

from jepa_jax.data.prepare.plan import make_plan
from jepa_jax.errors import UserError
from tests.preparing import NOISE, request, save, source


def test_every_image_is_in_one_shard(tmp_path):
    np.savez(tmp_path / "noise.npz", images=NOISE)
    plan = make_plan(
        request(source(tmp_path / "noise.npz", "npz"), tmp_path / "noise", held_out=0.1)
    )
    assert plan.images == len(NOISE)
    assert [len(split.order) for split in plan.splits.values()] == [540, 60]
    everything = np.concatenate([plan.indices(shard) for shard in plan.shards])
    assert not np.array_equal(everything, np.arange(len(NOISE)))
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(NOISE)))


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


@pytest.mark.parametrize(
    ("path", "splits", "message"),
    [
        (
            "pets/train",
            ["train", "val"],
            "'train' and 'val' would be the same images.*, or give one",
        ),
        ("pets/{split}", ["train", "train"], "the split 'train' twice"),
    ],
)
def test_two_splits_of_the_same_images_are_refused(tmp_path, path, splits, message):
    save(tmp_path / "pets" / "train", {"cat/1.png": b"", "dog/1.png": b""})
    with pytest.raises(UserError, match=message):
        make_plan(request(source(tmp_path / path), tmp_path / "set", splits))


@pytest.mark.parametrize(
    "name", ["a\nb", "a ", " ", "a\rb", b"caf\xe9".decode(errors="surrogateescape")]
)
def test_class_that_no_list_of_names_holds_is_named(tmp_path, name):
    save(tmp_path / "pets", {f"{name}/1.png": b"", "dog/2.png": b""})
    with pytest.raises(UserError, match=r"the class folder .* of .*pets can't stand in") as error:
        make_plan(request(source(tmp_path / "pets"), tmp_path / "set"))
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)
