"""Batches of uint8 images: for training by (seed, step), for evaluation in order.

Threads fill the coming batches while the device computes; Pillow decodes and resizes without
Python's lock.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
from jaxtyping import Int64, UInt8
from ml_collections import ConfigDict

from jepa_jax.data.sources import Source
from jepa_jax.data.streams import CROPS, ORDER, Stream
from jepa_jax.data.transforms import EvalView, TrainView
from jepa_jax.errors import UserError

ROWS = 32  # images a task of a thread: a few, since some take longer than others

Images = UInt8[np.ndarray, "B H W C"]
Plan = Int64[np.ndarray, "B ..."]  # what it takes to make the images of a batch, a row for each
Fill = Callable[[Images, Plan], None]


class TrainBatches:
    """The batches of a training run, each a pure function of (seed, step).

    `batches[step]` is {'images': uint8 (B_local, H, W, C), 'index': int64 (B_local,)}, where
    `index` says which examples of the source they are. The run is one long row of examples: the
    source in a random order, then in another, and so on. Batches are cut from it without regard
    to where an epoch ends: every example comes once an epoch, and every batch is full.

    `shard=(k, n)` gives the k-th of n equal parts of the same global batch, with the same crops
    whatever n is. Raises UserError if the source is shorter than a batch, or if the batch can't
    be shared out equally.
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
        self._source, self._seed = source, seed
        self._batch_size, self._shard = batch_size, shard
        self._view, self._threads = TrainView.of(data), data.threads
        self._shape = (batch_size // shard[1], *data.image_size, data.channels)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go through the source once, rounded down."""
        return len(self._source) // self._batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        plan, images = self._plan(step), np.empty(self._shape, np.uint8)
        self._fill(images, plan)
        return {"images": images, "index": plan[:, 1]}

    def iterate(self, start_step: int = 0) -> Generator[dict[str, np.ndarray]]:
        """Yields `self[start_step]`, `self[start_step + 1]`, … for ever, made ahead by threads.

        `close()` ends the threads. An error in one of them is raised here, at its batch.
        """
        plans = map(self._plan, itertools.count(start_step))
        with closing(_fill_ahead(plans, self._fill, self._shape, self._threads)) as batches:
            for plan, images in batches:
                yield {"images": images, "index": plan[:, 1]}

    def _plan(self, step: int) -> Int64[np.ndarray, "B 2"]:
        """(position in the run, index into the source) of each image of this shard."""
        local = self._shape[0]
        start = step * self._batch_size + self._shard[0] * local
        positions = np.arange(start, start + local)
        epochs, places = np.divmod(positions, len(self._source))
        index = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():  # one, or two where an epoch ends
            now = epochs == epoch
            index[now] = _order(self._seed, epoch, len(self._source))[places[now]]
        return np.stack([positions, index], axis=1)

    def _fill(self, images: Images, plan: Int64[np.ndarray, "B 2"]) -> None:
        stream = Stream(self._seed, CROPS)
        for row, (position, index) in enumerate(plan.tolist()):
            images[row] = self._view(self._source[index], stream.at(position))


def evaluation_batches(
    source: Source, data: ConfigDict, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray | int]]:
    """Yields the centre crops of the examples at `indices` (default: of all), in that order.

    Each batch is {'images': uint8 (batch_size, H, W, C), 'count': int}: only the first `count`
    images are real; the last batch is filled up with zeros, so that all have one shape.
    """
    view = EvalView.of(data)
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)

    def fill(images: Images, plan: Plan) -> None:
        for row, index in enumerate(plan.tolist()):
            images[row] = view(source[index])

    plans = (chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size))
    shape = (batch_size, *data.image_size, data.channels)
    with closing(_fill_ahead(plans, fill, shape, data.threads)) as batches:
        for plan, images in batches:
            yield {"images": images, "count": len(plan)}


def _fill_ahead(
    plans: Iterable[Plan], fill: Fill, shape: tuple[int, ...], threads: int
) -> Generator[tuple[Plan, Images]]:
    """Yields (plan, images) in the order of the plans; threads fill the next few meanwhile."""
    tasks_per_batch = -(-shape[0] // ROWS)
    ahead = 1 + -(-threads // tasks_per_batch)  # batches, so that no thread waits for work
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    pending = deque()

    def oldest() -> tuple[Plan, Images]:
        plan, images, tasks = pending.popleft()
        for task in tasks:
            task.result()
        return plan, images

    try:
        for plan in plans:
            # Always a new array: on a CPU the device may use this memory as it is.
            images = np.zeros(shape, np.uint8)
            parts = [slice(i, i + ROWS) for i in range(0, len(plan), ROWS)]
            tasks = [pool.submit(fill, images[part], plan[part]) for part in parts]
            pending.append((plan, images, tasks))
            if len(pending) > ahead:
                yield oldest()
        while pending:
            yield oldest()
    finally:
        pool.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, length: int) -> Int64[np.ndarray, " length"]:
    return Stream(seed, ORDER).at(epoch).permutation(length)
