"""Evaluates frozen features, and encoders, on labelled images.

    python launch/evaluate.py --checkpoint=runs/digits
    python launch/evaluate.py --checkpoint=pixels,untrained,runs/digits --protocol=knn,linear
    python launch/evaluate.py --checkpoint=IN1K-vit.h.14-300e.pth.tar --config=configs/vith14.py \\
        --protocol=linear --set=linear.l2=1e-4,1e-3 --out=evaluation
    python launch/evaluate.py --features=clip_train.npz,clip_test.npz --out=evaluation

A checkpoint is whatever `jepa_jax.load` reads, "pixels", "untrained", or "hf:FOLDER", any model of
images of Hugging Face transformers (CLIP, DINOv2, MAE, Swin, …); of several, divided by commas,
comes one table. The images are those that the run was trained on, or what --config (and
--config.data.KEY=VALUE) says. Options of protocols: --set=PROTOCOL.OPTION=VALUE. The same command
goes on where it was stopped, and shows what is finished. Exit codes: 0 finished, 2 wrong input, 74
a folder can't be read or written.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CONFIG = cli.config_flag()
CHECKPOINT = flags.DEFINE_list("checkpoint", [], "Runs, .pth.tar files, folders; or see above.")
PROTOCOL = flags.DEFINE_list("protocol", ["knn", "linear"], "What to evaluate by.")
FEATURES = flags.DEFINE_multi_string(
    "features", [], "TRAIN,TEST: files of features with labels. May be repeated."
)
SET = flags.DEFINE_multi_string("set", [], "An option: knn.neighbours=10,20. May be repeated.")
OUT = flags.DEFINE_string(
    "out", "", "Folder for results and features; RUN/evaluation if not given."
)
ENCODER = flags.DEFINE_enum("encoder", "target", ["target", "context", "both"], "Which to take.")
IMAGE_SIZE = flags.DEFINE_list("image_size", None, "HEIGHT,WIDTH, if not that of the training.")
TRAIN_IMAGES = flags.DEFINE_integer("train_images", None, "At most so many, at random.", 2)
TEST_IMAGES = flags.DEFINE_integer("test_images", None, "At most so many, at random.", 1)
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of matrix products.")
SEED = flags.DEFINE_integer("seed", 0, "Of what is random.", 0)
POOL = flags.DEFINE_enum(
    "pool", "average", ["average", "own"], "hf: over patches, or the model's own vector."
)
TOGETHER = cli.process_flags()


def main() -> None:
    from jepa_jax.errors import UserError
    from jepa_jax.evaluation.opening import How, image_size
    from jepa_jax.evaluation.run import Asked, evaluate
    from jepa_jax.evaluation.splits import ALL

    if not CHECKPOINT.value and not FEATURES.value:
        raise UserError("say what to evaluate: --checkpoint=runs/digits")
    with TOGETHER():
        evaluate(
            Asked(
                checkpoints=CHECKPOINT.value,
                protocols=PROTOCOL.value,
                config=CONFIG.value,
                settings=SET.value,
                out=OUT.value,
                features=FEATURES.value,
                how=How(
                    encoder=ENCODER.value,
                    size=image_size(IMAGE_SIZE.value),
                    dtype=DTYPE.value,
                    pool=POOL.value,
                    overridden=tuple(cli.overridden()),
                ),
                train_images=TRAIN_IMAGES.value or ALL,
                test_images=TEST_IMAGES.value or ALL,
                seed=SEED.value,
            )
        )


def stored(checkpoint: str):
    from jepa_jax.evaluation.opening import first_run

    run = first_run(checkpoint.split(","))
    return run and run.config


if __name__ == "__main__":
    cli.run(main, config=stored)
