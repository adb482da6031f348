"""The benchmarks run and count; what they find is not tested."""

import collections
import importlib.util

import pytest

from jepa_jax.benchmark import checkpoint, heads
from jepa_jax.benchmark.data import compare, report
from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from tests.tiny import tiny


@pytest.fixture
def config():
    c = defaults()
    c.data.source = "digits"
    c.data.test_split = "test"
    c.data.channels = 1
    c.data.image_size = (32, 32)
    return c


SHORT = {"images": 8, "workers": 1, "seconds": 0.5, "rounds": 1}


def test_our_input_is_measured(config, tmp_path, capsys):
    rows = compare(config, tmp_path, peer=False, **SHORT)
    assert [row["contender"] for row in rows] == ["jepa_jax", "jepa_jax fast"]
    assert all(row["images_per_second"] > 0 and row["worker_mb"] > 10 for row in rows)
    report(rows, workers=1)
    assert "jepa_jax fast" in capsys.readouterr().out


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")
def test_the_peer_takes_turns_with_ours(config, tmp_path):
    rows = compare(config, tmp_path, peer=True, **SHORT)
    assert [row["contender"] for row in rows] == [
        "jepa_jax",
        "jepa_jax fast",
        "torch",
        "torch uint8",
    ]


def test_a_missing_peer_is_told_in_a_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_jax.benchmark.data.PEER", tmp_path / "nowhere.py")
    with pytest.raises(UserError, match=r"torch failed: .*nowhere\.py"):
        compare(config, tmp_path, peer=True, **SHORT)


def test_checkpoints_are_measured(tmp_path, capsys):
    rows = checkpoint.measure(tiny(), tmp_path, steps=2, every=2, rounds=2)
    counts = collections.Counter(row["what"] for row in rows if row["seconds"] > 0)
    assert counts == {
        "a step": 2,
        "a save": 2,
        "a step with checkpoints, events and watchdog": 2,
        "the first restore": 1,
        "the first verification": 1,
        "a restore": 2,
        "verification": 2,
    }
    checkpoint.report(rows)
    assert "a save" in capsys.readouterr().out


def test_heads_are_measured(capsys):
    heads.main("4", "3", "8", "1")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[-1] for row in rows][:1] == ["1.00"]
    assert min(float(row[-5]) for row in rows) > 0
