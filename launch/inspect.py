"""Shows what a recipe is about to do.

    python launch/inspect.py data --config=configs/digits.py --out=runs/digits_data

data: counts, sizes, colours, duplicates and unreadable files of the recipe's images, and
`batch.png`: what the model would see of them, with its masks.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if path != HERE]  # inspect.py would hide Python's own

from absl import flags

from jepa_jax import cli

CONFIG = cli.config_flag()
OUT = flags.DEFINE_string("out", "inspect", "Folder for the pictures.")
IMAGES = flags.DEFINE_integer("images", 10_000, "Look at no more of a split than these.", 1)


def main(what: str) -> None:
    from jepa_jax.errors import UserError
    from jepa_jax.visualize.data import inspect_data

    if CONFIG.value is None:
        raise UserError("give a recipe: --config=configs/digits.py")
    inspect_data(CONFIG.value, OUT.value, IMAGES.value)


if __name__ == "__main__":
    cli.run(main, words=("data",))
