"""Features of images, into a file.

    python launch/extract.py --checkpoint=runs/digits --images=photos/val --out=photos.npz
    python launch/extract.py --checkpoint=runs/digits --split=test --out=test.npz
    python launch/extract.py --checkpoint=IN1K-vit.h.14-300e.pth.tar --config=configs/vith14.py \\
        --split=val --layers=4 --out=val.array_record

The images are those of a folder, zip or tar file, with class folders or without labels, or of a
split of the data that the run was trained on or --config names. The checkpoint is what
launch/evaluate.py takes. An .npz has `features` (n, width), and where they are known `labels`,
`names` and `classes`; launch/evaluate.py --features=train.npz,test.npz reads it, and .array_record.
The same command goes on where it was stopped. Exit codes: 0 finished, 2 wrong input, 74 a folder
can't be read or written.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CONFIG = cli.config_flag()
CHECKPOINT = flags.DEFINE_string("checkpoint", "", "A run, .pth.tar file, folder; or see above.")
IMAGES = flags.DEFINE_string("images", "", "A folder, zip or tar file of images.")
SPLIT = flags.DEFINE_string("split", "", "Of the data of --config; its training split by default.")
OUT = flags.DEFINE_string("out", "", "The file to write: .npz or .array_record.")
LAYERS = flags.DEFINE_integer("layers", 1, "So many of the last ones, side by side.", 1)
PATCHES = flags.DEFINE_bool("patches", False, "A vector of each patch, not their average.")
COUNT = flags.DEFINE_integer("count", None, "At most so many images, at random.", 1)
ENCODER = flags.DEFINE_enum("encoder", "target", ["target", "context", "both"], "Which to take.")
IMAGE_SIZE = flags.DEFINE_list("image_size", None, "HEIGHT,WIDTH, if not that of the training.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of matrix products.")
POOL = flags.DEFINE_enum(
    "pool", "average", ["average", "own"], "hf: over patches, or the model's own vector."
)
TOGETHER = cli.process_flags()


def main() -> None:
    from jepa_jax.errors import UserError
    from jepa_jax.evaluation.extract import Asked, extract
    from jepa_jax.evaluation.opening import How, image_size
    from jepa_jax.evaluation.splits import ALL

    if not CHECKPOINT.value or not OUT.value:
        raise UserError("say what to use and to write: --checkpoint=runs/digits --out=digits.npz")
    with TOGETHER():
        extract(
            Asked(
                checkpoint=CHECKPOINT.value,
                out=OUT.value,
                config=CONFIG.value,
                images=IMAGES.value,
                split=SPLIT.value,
                layers=LAYERS.value,
                patches=PATCHES.value,
                count=COUNT.value or ALL,
                how=How(
                    encoder=ENCODER.value,
                    size=image_size(IMAGE_SIZE.value),
                    dtype=DTYPE.value,
                    pool=POOL.value,
                    overridden=tuple(cli.overridden()),
                ),
            )
        )


def stored(checkpoint: str):
    from jepa_jax.evaluation.opening import first_run

    run = first_run([checkpoint])
    return run and run.config


if __name__ == "__main__":
    cli.run(main, config=stored)
