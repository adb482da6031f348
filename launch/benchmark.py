"""Measures how fast things are, next to peers on the same machine.

    python launch/benchmark.py data --config=configs/vitb16.py --workers=2 --peer=torch
    python launch/benchmark.py checkpoint --config=configs/vitb16.py --config.train.batch_size=64

data: JPEG files of 500×375, made from the recipe's images, to batches of random crops.
checkpoint: a training step on noise with and without checkpoints, events and watchdog; a save, a
restore.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path != HERE]  # inspect.py would hide Python's own

from absl import flags

from jepa_jax import cli

CONFIG = cli.config_flag()
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of each contender, one after the other.", 1)
IMAGES = flags.DEFINE_integer("images", 4096, "data: how many files.", 1)
WORKERS = flags.DEFINE_integer("workers", 1, "data: processes that decode them.", 0)
SECONDS = flags.DEFINE_float("seconds", 10.0, "data: of a round.", 0.1)
PEER = flags.DEFINE_enum("peer", None, ["torch"], "data: compare with it.")
STEPS = flags.DEFINE_integer("steps", 100, "checkpoint: of a round.", 1)
EVERY = flags.DEFINE_integer("every", 50, "checkpoint: steps between two.", 1)
FOLDER = flags.DEFINE_string("folder", None, "checkpoint: on the disk to measure.")


def main(what: str) -> None:
    import json
    import pathlib
    import tempfile

    from jepa_jax.benchmark import checkpoint, data
    from jepa_jax.errors import UserError

    if CONFIG.value is None:
        raise UserError("give a recipe: --config=configs/vitb16.py")
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as name:
        folder = pathlib.Path(name)
        if what == "data":
            rows = data.compare(
                CONFIG.value,
                folder,
                images=IMAGES.value,
                workers=WORKERS.value,
                seconds=SECONDS.value,
                rounds=ROUNDS.value,
                peer=PEER.value is not None,
            )
        else:
            steps, every, rounds = STEPS.value, EVERY.value, ROUNDS.value
            rows = checkpoint.measure(CONFIG.value, folder, steps=steps, every=every, rounds=rounds)
    for row in rows:
        print(json.dumps(row))
    if what == "data":
        data.report(rows, max(1, WORKERS.value))
    else:
        checkpoint.report(rows)


if __name__ == "__main__":
    cli.run(main, words=("data", "checkpoint"))
