"""Measures how fast things are, next to peers on the same machine.

    python launch/benchmark.py data --config=configs/vitb16.py --workers=2 --peer=torch

data: JPEG files of 500×375, made from the recipe's images, to batches of random crops.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path != HERE]  # inspect.py would hide Python's own

from absl import flags

from jepa_jax import cli

CONFIG = cli.config_flag()
IMAGES = flags.DEFINE_integer("images", 4096, "How many files.", 1)
WORKERS = flags.DEFINE_integer("workers", 1, "Processes that decode them.", 0)
SECONDS = flags.DEFINE_float("seconds", 10.0, "Of a round.", 0.1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of each contender, one after the other.", 1)
PEER = flags.DEFINE_enum("peer", None, ["torch"], "Compare with it.")


def main(what: str) -> None:
    import json
    import pathlib
    import tempfile

    from jepa_jax.benchmark.data import compare, report
    from jepa_jax.errors import UserError

    if CONFIG.value is None:
        raise UserError("give a recipe, whose images serve: --config=configs/vitb16.py")
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(
            CONFIG.value,
            pathlib.Path(folder),
            images=IMAGES.value,
            workers=WORKERS.value,
            seconds=SECONDS.value,
            rounds=ROUNDS.value,
            peer=PEER.value is not None,
        )
    for row in rows:
        print(json.dumps(row))
    report(rows, max(1, WORKERS.value))


if __name__ == "__main__":
    cli.run(main, words=("data",))
