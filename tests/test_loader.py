import threading
from itertools import islice

import numpy as np
import pytest
from ml_collections import ConfigDict

from jepa_jax.data.loader import TrainBatches, evaluation_batches
from jepa_jax.data.sources import ArraySource, Example
from jepa_jax.data.transforms import centre_crop
from jepa_jax.errors import UserError


def settings(**changes):
    data = ConfigDict(
        {
            "image_size": (6, 5),
            "channels": 1,
            "crop_scale": (0.3, 1.0),
            "crop_aspect": (3 / 4, 4 / 3),
            "flip": True,
            "eval_crop": 0.875,
            "threads": 3,
        }
    )
    data.update(changes)
    return data


def noise(length):
    shape = (length, 9, 8, 1)
    return ArraySource("noise", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def batches(length=100, seed=0, batch_size=8, **options):
    return TrainBatches(noise(length), settings(), seed=seed, batch_size=batch_size, **options)


class Broken:
    """A source whose example 5 can't be read."""

    labelled, classes = False, None

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = b"nonsense" if index == 5 else np.zeros((4, 4, 1), np.uint8)
        return Example(image, None, f"broken[{index}]")


def assert_same(one, other):
    np.testing.assert_array_equal(one["images"], other["images"])
    np.testing.assert_array_equal(one["index"], other["index"])


def image_threads():
    return [t for t in threading.enumerate() if t.name.startswith("images")]


# Training


def test_batch_layout():
    batch = batches()[0]
    assert batch["images"].shape == (8, 6, 5, 1)
    assert batch["images"].dtype == np.uint8
    assert batch["index"].shape == (8,)
    assert batch["index"].dtype == np.int64


def test_images_come_from_the_examples_of_index():
    shape = (100, 9, 8, 1)
    each = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None], shape)
    batch = TrainBatches(ArraySource("flat", each), settings(), seed=0, batch_size=8)[3]
    np.testing.assert_array_equal(batch["images"].max((1, 2, 3)), batch["index"])
    np.testing.assert_array_equal(batch["images"].min((1, 2, 3)), batch["index"])


def test_batches_are_a_function_of_seed_and_step():
    one, other = batches(batch_size=70), batches(batch_size=70)
    later = other[7]
    assert_same(one[3], other[3])
    assert_same(one[7], later)


@pytest.mark.parametrize("start", [0, 11])
def test_iterate_gives_the_batches_of_the_steps(start):
    made = batches(batch_size=70)
    steps = made.iterate(start)
    for step, batch in enumerate(islice(steps, 6), start):
        assert_same(batch, made[step])
    steps.close()


def test_number_of_threads_changes_nothing():
    one = TrainBatches(noise(100), settings(threads=1), seed=0, batch_size=70).iterate()
    many = TrainBatches(noise(100), settings(threads=8), seed=0, batch_size=70).iterate()
    for first, second in islice(zip(one, many, strict=True), 5):
        assert_same(first, second)
    one.close()
    many.close()


def test_batch_size_changes_neither_order_nor_crops():
    small, large = batches(batch_size=5), batches(batch_size=15)
    parts = [small[step] for step in (6, 7, 8)]
    together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert_same(together, large[2])


@pytest.mark.parametrize("count", [2, 4])
def test_shards_make_up_the_global_batch(count):
    whole = batches()[13]  # goes over the end of an epoch
    parts = [batches(shard=(k, count))[13] for k in range(count)]
    assert_same({key: np.concatenate([part[key] for part in parts]) for key in whole}, whole)


def test_every_example_comes_once_an_epoch():
    made = batches(length=20, batch_size=8)
    order = np.concatenate([made[step]["index"] for step in range(5)])
    first, second = order[:20], order[20:]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()


def test_seeds_give_other_orders_and_crops():
    orders = {tuple(batches(seed=seed, batch_size=100)[0]["index"]) for seed in (-1, 0, 1, 2**40)}
    assert len(orders) == 4
    same = ArraySource("same", np.repeat(noise(1).images, 8, axis=0))
    one, other = (TrainBatches(same, settings(), seed=seed, batch_size=8)[0] for seed in (0, 1))
    assert not np.array_equal(one["images"], other["images"])


def test_crops_of_one_image_differ():
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), dtype=np.uint8)
    same = ArraySource("same", np.repeat(image, 20, axis=0))
    made = TrainBatches(same, settings(), seed=0, batch_size=20)
    images = np.concatenate([made[0]["images"], made[1]["images"]])
    assert len(np.unique(images.reshape(40, -1), axis=0)) == 40


def test_steps_per_epoch():
    assert batches(length=100, batch_size=8).steps_per_epoch == 12
    assert batches(length=8, batch_size=8).steps_per_epoch == 1


def test_source_shorter_than_a_batch_is_refused():
    with pytest.raises(UserError, match="has 7 images, fewer than a batch"):
        batches(length=7, batch_size=8)


def test_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(UserError, match="batch_size 8 can't be shared out equally to 3"):
        batches(shard=(0, 3))


def test_closing_ends_the_threads():
    steps = batches().iterate()
    next(steps)
    assert image_threads()
    steps.close()
    assert not image_threads()


def test_error_in_a_thread_reaches_the_caller():
    steps = TrainBatches(Broken(), settings(), seed=0, batch_size=8).iterate()
    with pytest.raises(UserError, match=r"broken\[5\] can't be read"):
        list(islice(steps, 5))
    assert not image_threads()


# Evaluation


def test_evaluation_goes_through_all_in_order():
    source, data = noise(70), settings()
    expected = [centre_crop(image, (6, 5), 0.875) for image in source.images]
    made = list(evaluation_batches(source, data, 32))
    assert [batch["count"] for batch in made] == [32, 32, 6]
    assert {batch["images"].shape for batch in made} == {(32, 6, 5, 1)}
    images = np.concatenate([batch["images"] for batch in made])
    np.testing.assert_array_equal(images[:70], expected)
    assert not images[70:].any()


def test_evaluation_of_chosen_examples():
    source = noise(10)
    (batch,) = evaluation_batches(source, settings(), 4, indices=[7, 2, 7])
    assert batch["count"] == 3
    expected = [centre_crop(source.images[i], (6, 5), 0.875) for i in (7, 2, 7)]
    np.testing.assert_array_equal(batch["images"][:3], expected)


def test_evaluation_of_full_batches_has_no_empty_one():
    made = evaluation_batches(noise(8), settings(), 4)
    assert [batch["count"] for batch in made] == [4, 4]


def test_evaluation_names_what_it_cannot_read():
    with pytest.raises(UserError, match=r"broken\[5\] can't be read"):
        list(evaluation_batches(Broken(), settings(), 4))
    assert not image_threads()
