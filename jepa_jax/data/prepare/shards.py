"""Shards, each written by a worker process from beginning to end."""

import dataclasses
import multiprocessing
import os
import signal
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import closing
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jepa_jax.data.prepare.folder import Content, Folder
from jepa_jax.data.prepare.plan import Plan, Shard
from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.workers import end_with_parent
from jepa_jax.errors import UserError

# Any record can be read by itself. Images are compressed already: to try again would make writing
# four times and reading twice as slow.
OPTIONS = "group_size:1,uncompressed"
POLL = 0.2  # seconds


class Progress(NamedTuple):
    """Images that the workers are done with, and a line for each of them that is broken."""

    done: int
    broken: list[str]


def write_shards(
    plan: Plan, folder: Folder, shards: Sequence[Shard], workers: int
) -> Generator[Progress]:
    """Yields several times a second until all the shards are written. `close()` stops that.

    Raises:
      UserError: if a shard can't be written.
      BrokenProcessPool: if a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # JAX and other threads forbid to fork
    shared = _Shared(context.Value("q", 0), context.Queue(), context.Event())
    worker = _Worker(plan, folder, shared)
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, _begin, (worker,))
    broken = []
    try:
        pending = _submit(pool, shards)
        while pending:
            finished, pending = wait(pending, timeout=POLL)
            while not shared.broken.empty():
                broken.append(shared.broken.get())
            for future in finished:
                future.result()
            yield Progress(shared.done.value, broken)
    finally:
        shared.stop.set()
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, shards: Sequence[Shard]) -> set:
    # Ctrl-C is sent to the workers too, but it's for us to say when they stop. They inherit that
    # it is held back, as they are started here.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_write, shard) for shard in shards}
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@dataclasses.dataclass(frozen=True)
class _Shared:
    """What all the processes share."""

    done: Synchronized
    broken: Queue
    stop: Event


@dataclasses.dataclass(frozen=True)
class _Worker:
    """What a worker process knows."""

    plan: Plan
    folder: Folder
    shared: _Shared

    def write(self, shard: Shard) -> None:
        """Writes a shard. If it is stopped or fails on the way, it leaves nothing."""
        part = self.folder.begun(shard, by=os.getpid())
        try:
            content = self._fill(str(part), shard)
            if content is not None:
                self.folder.keep(shard, part, content)
        except RuntimeError as error:  # of ArrayRecord
            raise UserError(f"{part} can't be written: {error}") from error
        finally:
            part.unlink(missing_ok=True)

    def _fill(self, path: str, shard: Shard) -> Content | None:
        content = Content()
        source = self.plan.splits[shard.split].source
        with closing(ArrayRecordWriter(path, OPTIONS)) as file:
            for index in self.plan.indices(shard).tolist():
                if self.shared.stop.is_set():
                    return None
                try:
                    example = source[index]
                    image = self.plan.encoding(example)
                except BLAMELESS:
                    raise
                except UserError as error:
                    content.broken.append(str(error))
                    self.shared.broken.put(str(error))
                else:
                    name, label = self.plan.tell(shard, example)
                    file.write(record := _record(image, name, label))
                    content.add(len(record), label)
                with self.shared.done.get_lock():
                    self.shared.done.value += 1
        return content


def _record(image: bytes, name: str, label: int | None) -> bytes:
    features = {"image": _bytes(image), "file_name": _bytes(os.fsencode(name))}
    if label is not None:
        number = tf_feature_pb2.Int64List(value=[label])
        features["label"] = tf_feature_pb2.Feature(int64_list=number)
    record = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return record.SerializeToString(deterministic=True)  # else the keys may come in any order


def _bytes(value: bytes) -> tf_feature_pb2.Feature:
    return tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))


_worker: _Worker


def _begin(worker: _Worker) -> None:
    global _worker
    _worker = worker
    worker.shared.broken.cancel_join_thread()  # nobody may be there any more to read it
    warnings.simplefilter("ignore")  # Pillow's, about files that it can read in spite of them
    end_with_parent()


def _write(shard: Shard) -> None:
    _worker.write(shard)
