"""Draws what a run's predictor means, by a small decoder that is trained on the frozen model.

    python launch/train_decoder.py --checkpoint=runs/fashion_mnist
    python launch/train_decoder.py --checkpoint=runs/fashion_mnist --untrained --out=sketches

Of a block that the encoder did not see, the decoder knows the predictor's output, averaged over the
block, and its place (as in the paper's appendix on visualization). It draws several sketches of
each: what they share is what the predictor knew. With --untrained it does the same with the model
that the run started from, beside. Writes sketches.png, results.json and the decoders; the same
command goes on where it was stopped, and more --steps train on. Exit codes: 0 finished, 2 wrong
input, 74 a folder can't be read or written, 75 stopped by a signal after what was done was saved.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's folder, or one of its checkpoints.")
OUT = flags.DEFINE_string("out", None, "Folder to write into; `decoder` in the run's, if none.")
UNTRAINED = flags.DEFINE_boolean("untrained", False, "Whether to draw by an untrained model too.")
STEPS = flags.DEFINE_integer("steps", 2000, "Of the decoder's training.", 1)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images a step, each with all its blocks.", 1)
WIDTH = flags.DEFINE_integer("width", 96, "Of the decoder; a multiple of 32.", 32)
DEPTH = flags.DEFINE_integer("depth", 3, "Of the decoder.", 1)
IMAGES = flags.DEFINE_integer("images", 6, "How many are shown.", 1)
SAMPLES = flags.DEFINE_integer("samples", 4, "Sketches of each block that is shown.", 1)
TEST_IMAGES = flags.DEFINE_integer("test_images", 256, "At most so many are measured.", 2)
SEED = flags.DEFINE_integer("seed", 0, "Of what is random.", 0)
PATH = flags.DEFINE_string("path", None, "Where the images lie, if no more at data.path.")


def main() -> int:
    from jepa_jax.errors import UserError
    from jepa_jax.exits import FINISHED, STOPPED
    from jepa_jax.training.signals import StopWish
    from jepa_jax.visualize.decoder.fit import Settings
    from jepa_jax.visualize.decoder.run import Asked, train_decoder

    if not CHECKPOINT.value:
        raise UserError("say which: --checkpoint=runs/fashion_mnist")
    if WIDTH.value % 32:
        raise UserError(f"--width={WIDTH.value} is no multiple of 32, the width of a head")
    settings = Settings(
        steps=STEPS.value,
        batch_size=BATCH_SIZE.value,
        width=WIDTH.value,
        depth=DEPTH.value,
        seed=SEED.value,
    )
    asked = Asked(IMAGES.value, SAMPLES.value, TEST_IMAGES.value, UNTRAINED.value)
    data = {"path": PATH.value} if PATH.value else {}
    with StopWish() as stop:
        found = train_decoder(CHECKPOINT.value, OUT.value, settings, asked, data, stop)
    return FINISHED if found else STOPPED


if __name__ == "__main__":
    cli.run(main)
