"""Pre-trains I-JEPA.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits

The same command goes on where the run stopped. --config.KEY=VALUE changes a setting, such as
--config.train.epochs=5. A run that goes on may change what has no say in what is learned, and its
length; other changes are refused, unless --force names them. Exit codes: 0 finished, 2 wrong
input, 74 the folder can't be read or written, 75 stopped by SIGINT or SIGTERM with its state saved,
130 or 143 by a second one, at once, 124 ended by itself as it hung or as other processes did not
come up.
"""

import os
import sys
import time

BEGAN = time.time()
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path != HERE]  # inspect.py would hide Python's own

from absl import flags

from jepa_jax import cli

CONFIG = cli.config_flag()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics.jsonl, pictures."
)
FORCE = flags.DEFINE_list(
    "force",
    [],
    "Changes that a run puts up with to go on, such as optim.learning_rate, or data for other"
    " images.",
)
TOGETHER = cli.process_flags()


def main() -> int:
    from jepa_jax.errors import UserError
    from jepa_jax.training.loop import train

    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError(
            "give a recipe and a folder: --config=configs/digits.py --workdir=runs/digits"
        )
    with TOGETHER():
        return train(CONFIG.value, WORKDIR.value, FORCE.value, BEGAN)


if __name__ == "__main__":
    cli.run(main)
