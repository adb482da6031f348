import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from jepa_jax.config import defaults
from jepa_jax.data import loader
from jepa_jax.data.loader import TrainBatches, evaluation_batches
from jepa_jax.data.sources import ArraySource, Example
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError


def settings(**changes):
    data = defaults().data
    data.update(
        {
            "image_size": (6, 5),
            "channels": 1,
            "mean": (0.5,),
            "std": (0.5,),
            "flip": True,
            "threads": 3,
        }
        | changes
    )
    return data


def noise(length):
    shape = (length, 9, 8, 1)
    return ArraySource("noise", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def batches(length=100, seed=0, batch_size=8, **options):
    return TrainBatches(noise(length), settings(), seed=seed, batch_size=batch_size, **options)


class Broken:
    """A source with examples that can't be read."""

    labelled, classes = False, None

    def __init__(self, broken=(5,)):
        self._broken = broken

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = b"nonsense" if index in self._broken else np.zeros((4, 4, 1), np.uint8)
        return Example(image, None, f"broken[{index}]")


def assert_same(one, other):
    for key in ("images", "index", "broken"):
        np.testing.assert_array_equal(one[key], other[key])


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


@pytest.mark.parametrize("options", [{"threads": 8}, {"workers": 2}, {"workers": 3}])
def test_threads_and_workers_change_nothing(options):
    one = TrainBatches(noise(100), settings(threads=1), seed=0, batch_size=70).iterate(2)
    many = TrainBatches(noise(100), settings(**options), seed=0, batch_size=70).iterate(2)
    for first, second in islice(zip(one, many, strict=True), 5):
        assert_same(first, second)
    one.close()
    many.close()


def test_workers_open_few_files_whatever_the_size_of_a_batch(monkeypatch):
    """Each array of a part may be one, and a process may have few."""

    def count_files(parts):
        counts.append(len(os.listdir("/proc/self/fd")))
        return join(parts)

    counts, join = [], loader._join
    monkeypatch.setattr(loader, "_join", count_files)
    made = TrainBatches(noise(251), settings(workers=1), seed=0, batch_size=251)
    before = len(os.listdir("/proc/self/fd"))
    with closing(made.iterate()) as steps:
        assert_same(next(steps), made[0])
    assert max(counts) < before + 60


class Full(Broken):
    """There is no room for what a worker has made."""

    def __getitem__(self, index):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_shared_memory_that_is_too_small_is_named():
    steps = TrainBatches(Full(), settings(workers=1), seed=0, batch_size=8).iterate()
    with pytest.raises(UserError, match=r"/dev/shm is small \(docker run --shm-size=8g\)"):
        next(steps)


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
    orders = {
        tuple(batches(seed=seed, batch_size=100)[0]["index"]) for seed in (0, 1, 2, 2**31 - 1)
    }
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


def test_closing_ends_the_workers():
    steps = TrainBatches(noise(100), settings(workers=2), seed=0, batch_size=8).iterate()
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert not multiprocessing.active_children()


class Deadly(Broken):
    """Reading one of its examples ends the process, as does a kernel that is short of memory."""

    def __getitem__(self, index):
        if index in self._broken:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_others_take_over_from_a_killed_worker():
    made = TrainBatches(noise(100), settings(workers=2), seed=0, batch_size=32)
    steps = made.iterate(5)
    first = next(steps)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    for step, batch in enumerate([first, *islice(steps, 12)], 5):
        assert_same(batch, made[step])
    steps.close()


def test_workers_that_are_killed_again_and_again_are_an_error():
    steps = TrainBatches(Deadly(), settings(workers=1), seed=0, batch_size=8).iterate()
    with pytest.raises(UserError, match=r"a data worker was killed.*set data\.workers"):
        list(islice(steps, 20))


ORPHANS = """
import time
from jepa_jax.config import defaults
from jepa_jax.data import loader
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import open_source

data = defaults().data
data.source, data.channels, data.image_size, data.workers = "digits", 1, (8, 8), 2
batches = TrainBatches(open_source(data, "train"), data, seed=0, batch_size=8).iterate()
next(batches)
print("made", flush=True)
time.sleep(600)
"""


def test_workers_end_with_a_killed_process():
    process = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "made\n"
    process.kill()
    process.communicate(timeout=20)  # workers have the pipe too: it ends with the last of them


SHARED = """
import sys
from jepa_jax.config import defaults
from jepa_jax.data.loader import TrainBatches, evaluation_batches
from jepa_jax.data.sources import open_source

data = defaults().data
data.source, data.path, data.test_split = "npz", sys.argv[1] + "/{split}.npz", "train"
data.image_size, data.workers = (64, 64), 2
source = open_source(data, "train")
batches = TrainBatches(source, data, seed=0, batch_size=64).iterate()
next(batches)
for _ in range(2):  # as probes do, while workers make batches for training
    for _ in evaluation_batches(source, data, 64):
        next(batches)
batches.close()
"""


def test_workers_leave_no_shared_memory_to_be_warned_of(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (256, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "train.npz", images=images)
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_leave_ctrl_c_to_us(capfd):
    made = TrainBatches(noise(100), settings(workers=2), seed=0, batch_size=32)
    steps = made.iterate()
    list(islice(steps, 2))  # one from each, so that both are at work
    workers = {worker.pid for worker in multiprocessing.active_children()}
    for worker in workers:
        os.kill(worker, signal.SIGINT)
    for step, batch in enumerate(islice(steps, 12), 2):
        assert_same(batch, made[step])
    assert {worker.pid for worker in multiprocessing.active_children()} == workers
    steps.close()
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_an_unreadable_example_is_replaced_by_the_next():
    made = TrainBatches(Broken(), settings(), seed=0, batch_size=8)
    batches = [made[step] for step in range(5)]  # an epoch
    wanted = np.concatenate([batch["broken"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert sorted(wanted.tolist()) == 39 * [-1] + [5]
    assert index[wanted == 5] == [6]
    assert sorted(index.tolist()) == sorted([*range(5), 6, 6, *range(7, 40)])


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_but_unreadable_examples(workers):
    data = settings(workers=workers)
    steps = TrainBatches(Broken(range(40)), data, seed=0, batch_size=8).iterate()
    with pytest.raises(UserError, match=r"40 images in a row can't be used: broken\[\d+\] can't"):
        next(steps)
    steps.close()


# Evaluation


def test_evaluation_goes_through_all_in_order():
    source, data = noise(70), settings()
    expected = [EvalView((6, 5), 1, 0.875)(example) for example in source]
    made = list(evaluation_batches(source, data, 32))
    for key in ("index", "place"):
        numbers = np.concatenate([batch[key] for batch in made])
        np.testing.assert_array_equal(numbers, [*range(70), *26 * [-1]])
    assert {batch["images"].shape for batch in made} == {(32, 6, 5, 1)}
    images = np.concatenate([batch["images"] for batch in made])
    np.testing.assert_array_equal(images[:70], expected)
    assert not images[70:].any()


def test_evaluation_of_chosen_examples():
    source = noise(10)
    (batch,) = evaluation_batches(source, settings(), 4, indices=[7, 2, 7])
    assert batch["index"].tolist() == [7, 2, 7, -1]
    assert batch["place"].tolist() == [0, 1, 2, -1]
    expected = [EvalView((6, 5), 1, 0.875)(source[i]) for i in (7, 2, 7)]
    np.testing.assert_array_equal(batch["images"][:3], expected)


def test_evaluation_of_full_batches_has_no_empty_one():
    made = evaluation_batches(noise(8), settings(), 4)
    assert [batch["index"].tolist() for batch in made] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_evaluation_is_shared_out_in_equal_parts():
    source, data = noise(7), settings()
    whole = list(evaluation_batches(source, data, 4))
    parts = [list(evaluation_batches(source, data, 4, shard=(k, 2))) for k in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        for key, value in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[key] for part in shares]), value)


def test_evaluation_says_what_it_replaced():
    _, second, *_ = evaluation_batches(Broken(), settings(), 4)
    assert second["index"].tolist() == [4, 6, 6, 7]
    assert second["broken"].tolist() == [-1, 5, -1, -1]


# Size


START = """
import pathlib, time
import numpy as np
from jepa_jax.config import defaults
from jepa_jax.data import loader
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import Example

class Fake:
    labelled, classes = False, None
    def __len__(self):
        return 14_000_000
    def __getitem__(self, index):
        return Example(np.full((8, 8, 3), index % 251, np.uint8), None, str(index))

data = defaults().data
data.image_size, data.workers = (8, 8), 0
begin = time.monotonic()
batches = TrainBatches(Fake(), data, seed=0, batch_size=256).iterate(10**6)
index = next(batches)["index"]
peak = pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(time.monotonic() - begin, int(peak) / 1000)
batches.close()
assert index.max() > 10_000_000
"""


def test_fourteen_million_examples_start_at_once():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 5
    assert megabytes < 500
