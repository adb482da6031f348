"""Makes an ArrayRecord data set, which trains fastest and which TFDS reads, from any source.

    python launch/prepare.py --from=photos.zip --to=data/photos --held_out=0.02
    python launch/prepare.py --from='imagenet/{split}' --to=data/imagenet --short_side=256
    python launch/prepare.py --config=configs/cifar10_vits4.py --to=data/cifar10

Images keep their bytes unless --short_side or --format says otherwise. The same command goes on
where it stopped. Exit codes: 0 finished, 2 wrong input, 75 stopped by a signal.
"""

import os

from jepa_jax import cli
from jepa_jax.cli import flags

FROM = flags.DEFINE_string(
    "from",
    None,
    "A folder, .zip, .tar or .npz file; with {split} in its name, or globs, several of them.",
)
CONFIG = cli.config_flag()
TO = flags.DEFINE_string("to", None, "Folder of the data set, such as data/photos.")
SPLITS = flags.DEFINE_list("splits", None, "The source's splits, if not the recipe's (train,val).")
HELD_OUT = flags.DEFINE_float(
    "held_out", 0.0, "Share of the images of the only split to put into another, val.", 0.0, 0.9
)
SHORT_SIDE = flags.DEFINE_integer(
    "short_side", 0, "Shrink larger images to so many pixels; 0: don't.", 0
)
FORMAT = flags.DEFINE_enum("format", None, ["jpeg", "png", "webp"], "Encode other images anew.")
QUALITY = flags.DEFINE_integer("quality", 90, "Of what is encoded as jpeg or webp.", 1, 100)
CHECK = flags.DEFINE_bool("check", True, "Decode every image, to leave out the broken ones.")
MAX_BROKEN = flags.DEFINE_float("max_broken", 0.01, "Share of broken images to put up with.", 0, 1)
SHARD_MB = flags.DEFINE_integer("shard_mb", 256, "Megabytes of a file, at most.", 1)
WORKERS = flags.DEFINE_integer("workers", os.cpu_count(), "Processes.", 1)


def main() -> int:
    from jepa_jax.config import defaults
    from jepa_jax.data.prepare.encoding import Encoding
    from jepa_jax.data.prepare.request import Request
    from jepa_jax.data.prepare.run import Means, prepare
    from jepa_jax.errors import UserError
    from jepa_jax.training.signals import StopWish
    from jepa_jax.training.storage import local_path

    if (FROM.value is None) == (CONFIG.value is None) or not TO.value:
        raise UserError(
            "say what to read and where to write: --from=photos.zip --to=data/photos, or"
            " --config=configs/digits.py instead of --from"
        )
    data = (CONFIG.value or defaults()).data
    if FROM.value is not None:
        data.source = "npz" if FROM.value.endswith(".npz") else "folder"
        data.path = FROM.value
        data.test_split = data.test_split if "{split}" in FROM.value else ""
    splits = SPLITS.value or filter(None, (data.train_split, data.test_split))
    encoding = Encoding(SHORT_SIDE.value, FORMAT.value, QUALITY.value, CHECK.value)
    to = local_path(TO.value, "--to")
    request = Request(data, to, tuple(splits), encoding, HELD_OUT.value, SHARD_MB.value)
    with StopWish("stopping; again to stop at once") as stop:
        return prepare(request, Means(WORKERS.value, MAX_BROKEN.value, stop))


if __name__ == "__main__":
    cli.run(main)
