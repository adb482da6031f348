"""Draws what a run has learned.

    python launch/visualize.py --checkpoint=runs/digits
    python launch/visualize.py --checkpoint=runs/digits/checkpoints/200 --what=features,predictions

masks: what the encoder sees, and the target blocks.
features: the first three principal components of patch features, as colours.
steps: the same at every checkpoint that is kept, in colours that stay.
attention: what one patch looks at in the target encoder's last block, by head, and what all do.
similarity: how like one patch the patches of all images are.
predictions: how near the predicted features of each block are to the true ones.
retrieval: predicted blocks, as collages of the real patches whose features are nearest.
map: images with like features side by side (t-SNE).

Images are of the split that is held out, if there is one. Exit codes: 0 finished, 2 wrong input, 74
the folder can't be read or written.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's folder, or one of its checkpoints.")
WHAT = flags.DEFINE_list("what", [], "Which pictures; all, if none is named.")
OUT = flags.DEFINE_string("out", None, "Folder to write into; `pictures` in the run's, if none.")
IMAGES = flags.DEFINE_integer("images", 8, "How many are shown.", 1)
BANK = flags.DEFINE_integer("bank", 512, "How many others they are compared with.", 5)
PATH = flags.DEFINE_string("path", None, "Where the images lie, if no more at data.path.")


def main() -> None:
    from jepa_jax.errors import UserError
    from jepa_jax.visualize.checkpoint import visualize

    if not CHECKPOINT.value:
        raise UserError("say which: --checkpoint=runs/digits")
    data = {"path": PATH.value} if PATH.value else {}
    visualize(
        CHECKPOINT.value, WHAT.value, OUT.value, images=IMAGES.value, bank=BANK.value, data=data
    )


if __name__ == "__main__":
    cli.run(main)
