"""Attention by itself: ours beside what JAX offers, forward and backward."""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax.config import architecture, grid
from jepa_jax.errors import UserError
from jepa_jax.models.attention import attention
from jepa_jax.models.attention_kernels import cudnn_takes

OURS = "jepa_jax"
CALLS = 5  # of a round


def implementations(query: jax.Array) -> dict[str, Callable]:
    """Functions of query, key and value (B, H, N, E), by name; those that take such a query."""
    names = ["xla", *(["cudnn"] if cudnn_takes(query) else [])]
    return {OURS: attention} | {
        f"jax.nn {name}": functools.partial(_of_jax, name) for name in names
    }


def _of_jax(implementation: str, *qkv: jax.Array) -> jax.Array:
    """jax.nn.dot_product_attention, to whose layout (B, N, H, E) the arguments are brought."""
    arguments = (jnp.moveaxis(x, 1, 2) for x in qkv)
    mixed = jax.nn.dot_product_attention(*arguments, implementation=implementation)
    return jnp.moveaxis(mixed, 2, 1)


def shape_of(config: ConfigDict, given: Sequence[str] | None = None) -> tuple[int, int, int, int]:
    """B, N, H, D: as given, or of the target encoder, which sees all patches of an image.

    Raises:
      UserError: if it cannot be.
    """
    if given is not None:
        if len(given) != 4 or not all(number.isdecimal() and int(number) for number in given):
            raise UserError(f"--shape={','.join(given)}: give four numbers B,N,H,D")
        if int(given[3]) % int(given[2]):
            raise UserError(f"--shape={','.join(given)}: D must be a multiple of H")
        return tuple(map(int, given))
    size, (rows, columns) = architecture(config), grid(config)
    return config.train.batch_size, rows * columns, size["heads"], size["width"]


def measure(shape: tuple[int, int, int, int], dtype: str, rounds: int) -> list[dict[str, Any]]:
    """Rounds of each implementation, one after the other.

    Args:
      shape: B sequences of N tokens, H heads, width D.

    Returns:
      A row for each implementation: forward and backward, seconds of a call in each round, where
      "backward" is of both together.
    """
    batch, tokens, heads, width = shape
    keys = jax.random.split(jax.random.key(0), 3)
    size = (batch, heads, tokens, width // heads)
    qkv = [jax.random.normal(key, size, dtype) for key in keys]
    rows = []
    for name, function in implementations(qkv[0]).items():
        programs = {"forward": jax.jit(function), "backward": jax.jit(_gradient(function))}
        for program in programs.values():
            jax.block_until_ready(program(*qkv))
        row = {"implementation": name, "shape": list(shape), "dtype": dtype}
        rows.append(row | {"programs": programs, "forward": [], "backward": []})
    for _ in range(rounds):
        for row in rows:
            for what, program in row["programs"].items():
                row[what].append(_seconds(program, qkv))
    for row in rows:
        del row["programs"]
    return rows


def _gradient(function: Callable) -> Callable:
    def total(*qkv):
        return function(*qkv).astype(jnp.float32).sum()

    return jax.grad(total, argnums=(0, 1, 2))


def _seconds(program: Callable, arguments: list[jax.Array]) -> float:
    begin = time.perf_counter()
    for _ in range(CALLS):
        result = program(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / CALLS


def report(rows: list[dict[str, Any]]) -> None:
    """A table of medians with their spread."""
    batch, tokens, heads, width = rows[0]["shape"]
    shape = f"B={batch}, N={tokens}, H={heads}, D={width}, {rows[0]['dtype']}"
    table = Table("attention", "forward, ms", "with backward, ms", "ours is", title=shape)
    ours = statistics.median(rows[0]["backward"])
    for row in rows:
        cells = [
            f"{1e3 * statistics.median(row[what]):.2f}"
            f" ({1e3 * min(row[what]):.2f}–{1e3 * max(row[what]):.2f})"
            for what in ("forward", "backward")
        ]
        ratio = statistics.median(row["backward"]) / ours
        table.add_row(row["implementation"], *cells, "" if row is rows[0] else f"{ratio:.2f}×")
    Console().print(table)
