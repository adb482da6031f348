"""Some examples of many."""

import numpy as np
from jaxtyping import Int64


def subset(length: int, count: int, seed: int) -> Int64[np.ndarray, " k"]:
    """So many of 0, …, length - 1 at random (all, if they are no more), sorted.

    In memory it costs the `count`, not the `length`, which may be many millions.
    """
    if count >= length:
        return np.arange(length)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(length, count, replace=False, shuffle=False))


def spread(length: int, count: int) -> Int64[np.ndarray, " k"]:
    """So many of 0, …, length - 1, evenly from the first to the last (all, if they are no more)."""
    return np.linspace(0, length - 1, min(count, length)).astype(int)
