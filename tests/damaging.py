"""Damages files; what the tests of checkpoints share."""

import gc
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest

# Where one read or write of several fails, orbax leaves the others' coroutines behind.
leftovers_ignored = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
)


@pytest.fixture(autouse=True)
def leftovers_collected() -> Iterator[None]:
    """Before the mark above has lost its effect."""
    yield
    gc.collect()


def delete(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.unlink()


def truncate(path: pathlib.Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))] if content else b"")


def flip(path: pathlib.Path, rng: np.random.Generator) -> None:
    """One bit of it."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def files(folder: pathlib.Path, step: int) -> list[pathlib.Path]:
    """All files of a checkpoint of the run in a folder."""
    return sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())
