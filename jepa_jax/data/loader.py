"""Batches of uint8 images: for training by (seed, step), for evaluation in order.

Grain reads, decodes and crops the coming images in threads, or in worker processes, while the
devices compute.
"""

import errno
import gc
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jepa_jax.data.broken import read_sound
from jepa_jax.data.sources import Source
from jepa_jax.data.transforms import EvalView, TrainView
from jepa_jax.data.workers import end_with_parent
from jepa_jax.errors import UserError

ROWS = 32  # images of one task of a thread or worker: a few, since some take longer than others
SHARED = 2**16  # bytes from which on a worker's array comes in shared memory, with an open file
FOREVER = 2**62  # more images than any run sees

Batch = dict[str, np.ndarray]


class TrainBatches:
    """The batches of a training run, each a pure function of (seed, step).

    `batches[step]` is
      images: uint8 (B_local, H, W, C)
      index: int64 (B_local,), which examples of the source they are
      broken: int64 (B_local,), the example that could not be read and was replaced by the next
        one that could; -1 where all went well.

    The run is one long row of examples: the source in a random order, then in another, and so
    on. Batches are cut from it without regard to where an epoch ends: every example comes once
    an epoch, and every batch is full. An example's crop depends on the seed and its place in the
    row alone, so that batches are the same however many processes, workers and threads make them.

    Args:
      shard: (k, n) for the k-th of n equal parts of the same global batch.

    Raises:
      UserError: if the source is shorter than a batch, or if the batch can't be shared out
        equally.
    """

    def __init__(
        self,
        source: Source,
        data: ConfigDict,
        *,
        seed: int,
        batch_size: int,
        shard: tuple[int, int] = (0, 1),
    ):
        if len(source) < batch_size:
            raise UserError(
                f"the source has {len(source)} images, fewer than a batch: "
                f"set train.batch_size, now {batch_size}, to {len(source)} or less"
            )
        if batch_size % shard[1]:
            raise UserError(
                f"train.batch_size {batch_size} can't be shared out equally to {shard[1]} "
                f"processes: make it a multiple of {shard[1]}"
            )
        self.source = source
        self.steps_per_epoch = len(source) // batch_size  # rounded down
        self.local_size = batch_size // shard[1]  # images of a batch that are made here
        self.first_row = shard[0] * self.local_size  # where in the global batch they begin
        self._batch_size = batch_size
        self._threads, self._workers = data.threads, data.workers
        self._order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
        self._row = self._order.random_map(_Load(source, TrainView.of(data), data.broken_share))

    def __getitem__(self, step: int) -> Batch:
        return _stack(
            [self._row[self._place(step * self.local_size + i)] for i in range(self.local_size)]
        )

    def indices(self, step: int) -> list[int]:
        """Which examples the whole batch of a step asks for, without reading them."""
        first = step * self._batch_size
        return [int(self._order[first + i]) for i in range(self._batch_size)]

    def iterate(self, start_step: int = 0) -> Generator[Batch]:
        """Yields `self[start_step]`, `self[start_step + 1]`, … for ever, made ahead.

        `close()` ends the threads and workers. An error in one of them is raised here, at its
        batch. When a worker is killed, others take over where they were.

        Raises:
          UserError: if workers are killed again before they have made a batch.
        """
        step, died_at = start_step, None
        while True:
            try:
                with closing(self._ahead_from(step)) as batches:
                    for batch in batches:
                        yield batch
                        step += 1
            except WorkerDied:
                if died_at == step:
                    raise
                died_at = step
                logging.warning("a data worker was killed; others go on at step %d", step)

    def _ahead_from(self, step: int) -> Generator[Batch]:
        cut = _Cut(self.local_size)

        def make(part: int) -> Batch:
            return _stack([self._row[self._place(i)] for i in cut.rows(part)])

        parts = grain.MapDataset.range(step * cut.parts, FOREVER).map(make)
        return _ahead(parts, cut.parts, self._threads, self._workers)

    def _place(self, i: int) -> int:
        """Where in the row the i-th image of this shard is."""
        step, within = divmod(i, self.local_size)
        return step * self._batch_size + self.first_row + within


class _Load(grain.transforms.RandomMap):
    """An index -> a random view of that example, or of the next one that can be read."""

    def __init__(self, source: Source, view: TrainView, broken_share: float):
        self._source, self._view, self._broken_share = source, view, broken_share

    def random_map(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        return read_sound(
            self._source, index, lambda example: self._view(example, rng), self._broken_share
        )


def evaluation_images(
    source: Source, data: ConfigDict, indices: Sequence[int]
) -> UInt8[np.ndarray, "n H W C"]:
    """The centre crops of some examples, as `evaluation_batches` makes them."""
    batches = evaluation_batches(source, data, min(64, len(indices)), indices)
    return np.concatenate([batch["images"] for batch in batches])[: len(indices)]


def evaluation_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    indices: Sequence[int] | None = None,
    shard: tuple[int, int] = (0, 1),
    view: EvalView | None = None,
) -> Iterator[Batch]:
    """Yields the centre crops of the examples at `indices` (default: of all), in that order.

    Each batch is {'images': uint8 (B_local, H, W, C), 'index', 'broken': as in `TrainBatches`,
    'place': int64 (B_local,), where in `indices` they are}. The last one is filled up with zeros
    of place -1, so that all have one shape.

    Args:
      shard: (k, n) for the k-th of n equal parts of each batch; n divides `batch_size`.
      view: what is seen of an image, if other than `data` says.
    """
    view, share = view or EvalView.of(data), data.broken_share
    chosen = range(len(source)) if indices is None else np.asarray(indices, np.int64)
    nothing = np.zeros((*view.size, view.channels), np.uint8)
    filling = {"image": nothing, "index": -1, "broken": -1, "place": -1}
    local_size = batch_size // shard[1]
    places = np.pad(np.arange(len(chosen)), (0, -len(chosen) % batch_size), constant_values=-1)
    mine = places.reshape(-1, shard[1], local_size)[:, shard[0]].ravel()
    cut = _Cut(local_size)

    def look(place: int) -> dict[str, Any]:
        if place < 0:
            return filling
        return read_sound(source, int(chosen[place]), view, share) | {"place": place}

    def make(part: int) -> Batch:
        return _stack([look(place) for place in mine[cut.rows(part)].tolist()])

    parts = grain.MapDataset.range(len(mine) // local_size * cut.parts).map(make)
    with closing(_ahead(parts, cut.parts, data.threads, data.workers)) as batches:
        yield from batches


@dataclass(frozen=True)
class _Cut:
    """Batches of `local_size` rows, one after the other, each cut into parts of nearly one size."""

    local_size: int

    @property
    def parts(self) -> int:
        """Of each batch."""
        return -(-self.local_size // ROWS)

    def rows(self, part: int) -> range:
        """The rows of the part-th part, counted over all batches."""
        batch, k = divmod(part, self.parts)
        start, end = (i * self.local_size // self.parts for i in (k, k + 1))
        return range(batch * self.local_size + start, batch * self.local_size + end)


class WorkerDied(UserError):
    """One that was killed, or had no room for what it made: mostly for want of memory."""

    def __init__(self):
        super().__init__(
            "a data worker was killed, which happens where memory is short or /dev/shm is small"
            " (docker run --shm-size=8g): set data.workers or data.threads lower, or data.workers=0"
        )


def _ahead(
    parts: grain.MapDataset, parts_per_batch: int, threads: int, workers: int
) -> Generator[Batch]:
    """Batches of so many parts each, in order; the next two are made ahead."""
    ahead = 2 * threads if workers else max(threads, 2 * parts_per_batch)
    parts = parts.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=ahead))
    if workers:  # they share the work by parts
        if not flags.FLAGS.is_parsed():  # Grain asks for its own, also where no command was given
            flags.FLAGS.mark_as_parsed()
        buffered = -(-2 * parts_per_batch // workers)
        shared = grain.experimental.DatasetOptions(min_shm_size=SHARED)
        parts = grain.experimental.WithOptionsIterDataset(parts, shared)
        options = grain.MultiprocessingOptions(workers, buffered)
        parts = parts.mp_prefetch(options, worker_init_fn=_begin_worker)
    try:
        with closing(iter(parts.batch(parts_per_batch, batch_fn=_join))) as batches:
            yield from batches
    except RuntimeError as error:
        if "terminated unexpectedly" in str(error):  # Grain's only word for it
            raise WorkerDied from error
        raise
    except OSError as error:
        if workers and error.errno in (errno.ENOSPC, errno.ENOMEM):
            raise WorkerDied from error
        raise
    finally:
        if workers:  # or what they shared goes later, at a moment of which multiprocessing warns
            gc.collect()


def _begin_worker(*_) -> None:
    # Ctrl-C is sent to workers too, but it's for the main process to say when they stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _stack(examples: Sequence[dict[str, Any]]) -> Batch:
    numbers = {
        key: np.array([example[key] for example in examples], np.int64)
        for key in examples[0]
        if key != "image"
    }
    return {"images": np.stack([example["image"] for example in examples]), **numbers}


def _join(parts: Sequence[Batch]) -> Batch:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
