"""Features on disk: written shard by shard while they are computed, read memory-mapped.

A folder holds `values.npy` and `index.npy`, which any program can read, and `shards.jsonl` with a
checksum of each part that is finished. Whatever is missing or does not fit its checksum, after a
kill or damage, is computed again; so is a part with images that could not be read.
"""

import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int

from jepa_jax.evaluation.features import Features, Rows
from jepa_jax.parallel.processes import from_first, is_first, wait_for_all
from jepa_jax.training.jsonlines import JsonLines
from jepa_jax.training.workdir import storage_of

Array = np.ndarray


def cached_features(
    folder: pathlib.Path,
    index: Int[Array, " n"],
    compute: Callable[[Int[Array, " m"]], Iterable[Rows]],
    shard: int,
) -> Features:
    """The features of some images: as they lie in the folder, or computed and put there.

    Args:
      folder: of these features alone; seen by all processes.
      index: which examples of the source they are.
      compute: gives, for some of the numbers 0, …, n - 1, the features of these images, batch by
        batch in about that order; `place` refers to the numbers that were given.
      shard: images of a part. What is not finished of one is lost by a kill; some are in memory.

    Raises:
      StorageError: if the folder cannot be read or written.
    """
    with storage_of(folder):
        count = len(index)
        parts = [np.arange(first, min(first + shard, count)) for first in range(0, count, shard)]
        missing = from_first(list(_missing(folder, parts, index)) if is_first() else None)
        if missing:
            rows = np.concatenate([parts[number] for number in missing])
            finished = _finished(compute(rows), rows, shard, count)
            if is_first():
                _write(folder, count, parts, finished)
            else:
                for _ in finished:
                    pass
            wait_for_all("features")
        return Features(*(_open(folder / name) for name in ("values.npy", "index.npy")))


def _missing(folder: pathlib.Path, parts: Sequence[Array], index: Array) -> Iterator[int]:
    """The parts that are not there as they were written, or of other images than were asked for."""
    arrays = [_open(folder / name) for name in ("values.npy", "index.npy")]
    sound = all(array is not None and len(array) == len(index) for array in arrays)
    checksums = {row["shard"]: row["checksum"] for row in _finished_parts(folder).rows()}
    for number, rows in enumerate(parts):
        there = slice(rows[0], rows[-1] + 1)
        whole = sound and checksums.get(number) == _checksum(*(each[there] for each in arrays))
        if not whole or not np.array_equal(arrays[1][there], index[there]):
            yield number


def _finished(
    found: Iterable[Rows], rows: Array, shard: int, count: int
) -> Iterator[tuple[int, Array, Array]]:
    """(number, values, index) of each part of which all is known."""
    waiting: dict[int, list[Rows]] = {}
    for batch in found:
        row_of_each = rows[batch.place]
        for number in np.unique(row_of_each // shard).tolist():
            mine = row_of_each // shard == number
            piece = Rows(batch.values[mine], batch.index[mine], row_of_each[mine])
            waiting.setdefault(number, []).append(piece)
            pieces = waiting[number]
            if sum(len(each.place) for each in pieces) == min(shard, count - number * shard):
                values, index, place = map(np.concatenate, zip(*pieces, strict=True))
                order = np.argsort(place)
                del waiting[number]
                yield number, values[order], index[order]


def _write(
    folder: pathlib.Path,
    count: int,
    parts: Sequence[Array],
    finished: Iterable[tuple[int, Array, Array]],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = _finished_parts(folder)
    for number, values, index in finished:
        for name, array in (("values.npy", values), ("index.npy", index)):
            _put(folder / name, (count, *array.shape[1:]), int(parts[number][0]), array)
        lines.append({"shard": number, "checksum": _checksum(values, index)})


def _put(file: pathlib.Path, shape: tuple[int, ...], first: int, rows: Array) -> None:
    """Writes rows into an .npy file, which is made if there is none of that shape.

    Not memory-mapped: a full disk would end the process without a word.
    """
    there = _open(file)
    if there is None or there.shape != shape or there.dtype != rows.dtype:
        with file.open("wb") as opened:
            np.lib.format.write_array_header_1_0(
                opened, np.lib.format.header_data_from_array_1_0(rows[:0]) | {"shape": shape}
            )
            opened.truncate(opened.tell() + rows.dtype.itemsize * int(np.prod(shape)))
        there = _open(file)
    with file.open("r+b") as opened:
        opened.seek(there.offset + first * (there.nbytes // max(1, len(there))))
        opened.write(np.ascontiguousarray(rows).tobytes())


def _open(file: pathlib.Path) -> np.memmap | None:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):  # none, or a damaged one
        return None


def _checksum(values: Array, index: Array) -> str:
    total = zlib.crc32(f"{values.dtype}{values.shape}{index.dtype}".encode())
    for array in (values, index):
        total = zlib.crc32(np.ascontiguousarray(array), total)
    return f"{total:08x}"


def _finished_parts(folder: pathlib.Path) -> JsonLines:
    return JsonLines(epath.Path(folder / "shards.jsonl"), shard=int, checksum=str)
