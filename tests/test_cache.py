"""Features on disk: computed once, part by part, and again where they are damaged."""

import numpy as np
import pytest

from jepa_jax.evaluation.cache import cached_features
from jepa_jax.evaluation.features import Rows

VALUES = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
INDEX = np.arange(10, dtype=np.int32)[::-1]


class Encoder:
    """Gives features in batches of four, those of a batch in another order; counts images."""

    def __init__(self, dies_after: int = 10**6):
        self.asked, self.dies_after = [], dies_after

    def __call__(self, rows):
        for first in range(0, len(rows), 4):
            place = np.arange(first, min(first + 4, len(rows)))[::-1]
            if len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            self.asked += rows[place].tolist()
            yield Rows(VALUES[rows[place]], INDEX[rows[place]], place.astype(np.int32))


def look(folder, encoder):
    found = cached_features(folder, INDEX, encoder, shard=3)
    np.testing.assert_array_equal(found.values, VALUES)
    np.testing.assert_array_equal(found.index, INDEX)
    return sorted(encoder.asked)


def test_each_image_is_computed_once(tmp_path):
    assert look(tmp_path, Encoder()) == list(range(10))
    assert look(tmp_path, Encoder()) == []


def test_any_program_can_read_it(tmp_path):
    look(tmp_path, Encoder())
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), VALUES)


def test_goes_on_after_a_kill_with_what_was_not_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        look(tmp_path, Encoder(dies_after=8))
    assert look(tmp_path, Encoder()) == [6, 7, 8, 9]


def test_a_part_with_an_image_that_could_not_be_read_is_computed_again(tmp_path):
    asked = INDEX.copy()
    asked[4] = 77  # another one took its place
    cached_features(tmp_path, asked, Encoder(), shard=3)
    again = Encoder()
    cached_features(tmp_path, asked, again, shard=3)
    assert sorted(again.asked) == [3, 4, 5]


@pytest.mark.parametrize("name", ["values.npy", "index.npy"])
def test_a_part_whose_bytes_changed_is_computed_again(tmp_path, name):
    look(tmp_path, Encoder())
    array = np.load(tmp_path / name, mmap_mode="r+")
    array[4] += 1
    array.flush()
    assert look(tmp_path, Encoder()) == [3, 4, 5]


def test_half_a_file_is_computed_again(tmp_path):
    look(tmp_path, Encoder())
    content = (tmp_path / "values.npy").read_bytes()
    (tmp_path / "values.npy").write_bytes(content[: len(content) // 2])
    assert look(tmp_path, Encoder()) == list(range(10))
