"""Mixtures: the shares of their parts, their labels, and what a recipe may write."""

import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from jepa_jax.config import defaults
from jepa_jax.data.mixture import mixed
from jepa_jax.data.sources import ArraySource, open_source
from jepa_jax.errors import UserError
from jepa_jax.validation import validate


def numbered(name, length, classes=None):
    """Images whose one pixel is their number; example i has the label i modulo the classes."""
    images = np.arange(length, dtype=np.uint8)[:, None, None, None]
    labels = np.arange(length, dtype=np.int32) % len(classes) if classes else None
    return ArraySource(name, images, labels, classes)


def names(source):
    return [source[i].name for i in range(len(source))]


def config(*parts, **changes):
    c = defaults()
    with c.data.unlocked():
        c.data.update(source="mixture", mixture=parts, **changes)
    return c


def test_shares_follow_the_weights():
    source = mixed([numbered("a", 10), numbered("b", 90), numbered("c", 20)], [2, 3, 1])
    count = Counter(name[0] for name in names(source))
    assert count == {"a": 60, "b": 90, "c": 30}


@pytest.mark.parametrize("weight", [1, 2, 2.5, 7.3])
def test_every_part_is_gone_through_evenly(weight):
    """Each image comes, and none more than once more often than another of its part."""
    source = mixed([numbered("a", 30), numbered("b", 40)], [weight, 1])
    count = Counter(names(source))
    assert len(count) == 70
    for part in "ab":
        often = [number for name, number in count.items() if name[0] == part]
        assert max(often) - min(often) <= 1


def test_those_that_come_once_more_are_spread_over_a_part():
    source = mixed([numbered("a", 100), numbered("b", 100)], [1.1, 1])
    twice = [name for name, number in Counter(names(source)).items() if number == 2]
    assert len(twice) == 10
    steps = np.diff(sorted(int(name[2:-1]) for name in twice))
    assert min(steps) >= 9


def test_examples_are_a_function_of_the_index():
    source = mixed([numbered("a", 30), numbered("b", 7)], [1, 0.7])
    again = pickle.loads(pickle.dumps(source))
    order = np.random.default_rng(0).permutation(len(source))
    assert [source[i].name for i in order] == [again[i].name for i in order]
    assert source[-1].name == source[len(source) - 1].name
    with pytest.raises(IndexError):
        source[len(source)]


def test_classes_go_by_name():
    parts = [numbered("a", 4, ("dog", "cat")), numbered("b", 4, ("eel", "dog"))]
    source = mixed(parts, [1, 1])
    assert source.classes == ("cat", "dog", "eel")
    assert source.labels(np.arange(8)).tolist() == [1, 0, 1, 0, 2, 1, 2, 1]
    assert [source[i].label for i in range(8)] == [1, 0, 1, 0, 2, 1, 2, 1]


def test_labels_without_names_are_not_mixed():
    unnamed = ArraySource("b", np.zeros((4, 1, 1, 1), np.uint8), np.zeros(4, np.int32))
    source = mixed([numbered("a", 4, ("dog", "cat")), unnamed], [1, 1])
    assert not source.labelled
    assert source.classes is source[0].label is source[7].label is None


def test_a_recipe_in_three_lines(tmp_path):
    np.savez(tmp_path / "train.npz", images=np.zeros((100, 8, 8), np.uint8))
    c = config(
        {"source": "digits", "weight": 2.0},
        {"source": "npz", "path": f"{tmp_path}/{{split}}.npz", "test_split": ""},
    )
    validate(c)
    train, test = (open_source(c.data, split) for split in ("train", "val"))
    assert len(train) == 1437 + 718
    assert Counter(name.startswith("digits") for name in names(train)) == {True: 1437, False: 718}
    assert len(test) == 360  # of the digits alone
    assert test.classes == tuple("0123456789")


def test_parts_may_call_their_splits_otherwise(tmp_path):
    for name, count in (("train", 5), ("val", 3), ("all", 7), ("held", 2)):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((count, 1, 1), np.uint8))
    path = f"{tmp_path}/{{split}}.npz"
    c = config(
        {"source": "npz", "path": path, "weight": 5},
        {"source": "npz", "path": path, "train_split": "all", "test_split": "held", "weight": 7},
    )
    assert len(open_source(c.data, "train")) == 12
    held = Counter(name.split("/")[-1][:4] for name in names(open_source(c.data, "val")))
    assert held == {"val.": 3, "held": 4}


@pytest.mark.parametrize("weights", [(1e-300, 1), (1e-12, 1e8), (1e-6, 1e9), (5e-324, 1)])
def test_weights_that_make_an_epoch_endless_are_refused(weights):
    with pytest.raises(UserError, match=r"with the weights .* bring them nearer") as error:
        mixed([numbered("a", 10), numbered("b", 10)], weights)
    assert "\n" not in str(error.value)


def test_split_that_no_part_has():
    c = config({"source": "digits", "test_split": ""})
    with pytest.raises(UserError, match="no part with split 'val'"):
        open_source(c.data, "val")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "data.mixture is empty: list its parts, as in"),
        (["digits"], r"data.mixture\[0\] is 'digits': write a dict"),
        ([{"source": "digits"}, {"sorce": "npz"}], r"mixture\[1\] has no key 'sorce'.*'source'"),
        ([{"source": "fodler"}], r"mixture\[0\].source='fodler' .*nearest is 'folder'"),
        ([{"path": "a/{split}"}], r"mixture\[0\] has no source of its own"),
        (
            [{"source": "digits", "weight": 0}],
            "has the weight 0: make it a number from 1e-06 to 1e",
        ),
        ([{"source": "digits", "weight": 1e-300}], "has the weight 1e-300"),
        ([{"source": "digits", "weight": float("nan")}], "has the weight nan"),
        ([{"source": "digits", "weight": "2"}], "has the weight '2'"),
        ([{"source": "digits", "weight": True}], "has the weight True"),
        ([{"source": "npz", "path": 3}], "path is 3 but must be a text"),
        ([{"source": "npz", "path": "a.npz"}], r"mixture\[0\].path='a.npz' has no {split}"),
        ([{"source": "digits", "train_split": "val"}], r"mixture\[0\] has the split 'val' twice"),
        ([{"source": "tfds", "name": "mnist"}], r"has {split}, but TFDS keeps all splits in one"),
    ],
)
def test_mixtures_that_do_not_fit(parts, message):
    with pytest.raises(UserError, match=message) as error:
        validate(config(*parts))
    assert "\n" not in str(error.value)


def test_parts_of_what_is_no_mixture_are_refused():
    c = config({"source": "digits"})
    c.data.source = "digits"
    with pytest.raises(UserError, match=r"data\.mixture is not used by data\.source='digits'"):
        validate(c)


# Millions


MILLIONS = """
import pathlib, pickle, time
import numpy as np
from jepa_jax.config import defaults
from jepa_jax.data.mixture import mixed
from jepa_jax.data.protocol import Example
from jepa_jax.evaluation import probe, splits
from jepa_jax.parallel.sharding import make_mesh

class Fake:
    labelled, classes = True, tuple(f"n{i:08}" for i in range(21841))
    def __init__(self, length): self.length = length
    def __len__(self): return self.length
    def __getitem__(self, index): return Example(b"", index % 21841, f"fake[{index}]")
    def labels(self, indices): return np.asarray(indices).astype(np.int32) % 21841

begun = time.monotonic()
train = mixed([Fake(14_000_000), Fake(1_281_167)], [3.0, 1.0])
train = pickle.loads(pickle.dumps(train))
splits.open_source = lambda data, split: Fake(100_000)
config = defaults()
config.data.source = "synthetic"  # of which no file is looked for
made = probe.Probe(config, train, make_mesh((1, 1, 1)))
train[len(train) - 1]
seconds = time.monotonic() - begun
peak = pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(seconds, int(peak) / 1000)
"""


def test_millions_of_examples_cost_neither_time_nor_memory():
    made = subprocess.run([sys.executable, "-c", MILLIONS], capture_output=True, check=True)
    seconds, megabytes = map(float, made.stdout.split())
    assert seconds < 5
    assert megabytes < 500
