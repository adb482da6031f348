"""Pre-trains I-JEPA.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits

The same command goes on where the run stopped. --config.KEY=VALUE changes a setting, such as
--config.train.epochs=5, and --rescale=256 the batch, with all that depends on it. A run that goes
on may change what has no say in what is learned, and its length; other changes are refused, unless
--force names them. Exit codes: 0 finished, 2 wrong input, 74 the folder can't be read or written,
75 stopped by SIGINT or SIGTERM with its state saved, 130 or 143 by a second one, at once, 124 ended
by itself as it hung or as other processes did not come up.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

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
RESCALE = flags.DEFINE_integer(
    "rescale",
    None,
    "Train with a batch of so many images, and change with it what has to: learning rate, weight"
    " decay and the target encoder's momentum.",
    1,
)
TOGETHER = cli.process_flags()


def main() -> int:
    from jepa_jax.config import changed
    from jepa_jax.errors import UserError
    from jepa_jax.parallel.host_memory import keep_freed_memory
    from jepa_jax.rescale import rescaling
    from jepa_jax.training.loop import train

    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError(
            "give a recipe and a folder: --config=configs/digits.py --workdir=runs/digits"
        )
    keep_freed_memory()
    config = CONFIG.value
    if RESCALE.value:
        changes = rescaling(config, RESCALE.value)
        config = changed(config, changes)
        print("rescaled:", ", ".join(f"{key}={value}" for key, value in changes.items()))
    with TOGETHER():
        return train(config, WORKDIR.value, FORCE.value, cli.BEGAN)


if __name__ == "__main__":
    cli.run(main)
