"""Shows what a recipe is about to do, or what became of a run.

    python launch/inspect.py data --config=configs/digits.py --out=runs/digits_data
    python launch/inspect.py masks --config=configs/digits.py --out=runs/digits_masks
    python launch/inspect.py run runs/digits

data: counts, sizes, colours, duplicates and unreadable files of the recipe's images, and
`batch.png`: what the model would see of them, with its masks.
masks: how often each patch is seen and predicted, how many patches are left for the context, and
`masks.png`; with a warning for patches that are never reached and for poor settings.
run: where the time went, over all starts of the run in that folder; also while it goes on.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CONFIG = cli.config_flag()
OUT = flags.DEFINE_string("out", "inspect", "Folder for the pictures.")
IMAGES = flags.DEFINE_integer("images", 10_000, "Look at no more of a split than these.", 1)


def main(what: str, *which: str) -> None:
    if what == "run":
        from jepa_jax.training.goodput import inspect_run

        return inspect_run(*which)

    from jepa_jax.errors import UserError
    from jepa_jax.visualize.audit import inspect_masks
    from jepa_jax.visualize.data import inspect_data

    if CONFIG.value is None:
        raise UserError("give a recipe: --config=configs/digits.py")
    if what == "masks":
        inspect_masks(CONFIG.value, OUT.value)
    else:
        inspect_data(CONFIG.value, OUT.value, IMAGES.value)


if __name__ == "__main__":
    cli.run(main, words=("data", "masks", "run DIR"))
