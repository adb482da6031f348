"""What the 24 heads of the paper's sweep cost, beside one of each of the four kinds, and one alone.

    python -m jepa_jax.benchmark.heads WIDTH CLASSES BATCH [ROUNDS]

On noise, of four layers; a round is an epoch of two steps of each contender, one after the other.
"""

import sys
import time

import jax
import numpy as np

from jepa_jax.evaluation.linear_sweep import HEADS, Options, moments_of, train

STEPS = 2  # of an epoch
KINDS = Options(learning_rates=(0.01,), weight_decays=(0.0,)).heads


def measure(width: int, classes: int, batch: int, rounds: int) -> dict[str, float]:
    """Seconds a step of each contender: the shortest of all rounds."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((STEPS * batch, 4, width), np.float32)
    labels, moments = rng.integers(classes, size=len(features)), moments_of(features)
    contenders = {"24 heads": HEADS, "one of each kind": KINDS, "the dearest alone": KINDS[-1:]}
    epochs = {
        name: train(
            *(features, labels, moments, batch),
            **{"classes": classes, "heads": heads, "epochs": rounds + 1, "seed": 0},
        )
        for name, heads in contenders.items()
    }
    for each in epochs.values():
        jax.block_until_ready(next(each))  # compiles
    found = dict.fromkeys(contenders, np.inf)
    for _ in range(rounds):
        for name, each in epochs.items():
            start = time.perf_counter()
            jax.block_until_ready(next(each))
            found[name] = min(found[name], (time.perf_counter() - start) / STEPS)
    return found


def main(width: str, classes: str, batch: str, rounds: str = "5") -> None:
    found = measure(int(width), int(classes), int(batch), int(rounds))
    for name, seconds in found.items():
        print(f"{name:18} {1e3 * seconds:9.2f} ms a step {found['24 heads'] / seconds:6.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
