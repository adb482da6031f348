"""Damages files; what the tests of checkpoints share."""

import pathlib

import numpy as np


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
