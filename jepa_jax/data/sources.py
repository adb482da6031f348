"""Where images come from: opens what the section `data` of a config names."""

from ml_collections import ConfigDict

from jepa_jax.data import mixture, paths
from jepa_jax.data.arrays import ArraySource, open_digits, open_npz
from jepa_jax.data.files import open_files
from jepa_jax.data.joined import joined
from jepa_jax.data.protocol import Example, Source
from jepa_jax.data.synthetic import open_synthetic
from jepa_jax.data.validation_split import validation, without_validation
from jepa_jax.errors import UserError, did_you_mean

__all__ = [
    "SOURCES",
    "ArraySource",
    "Example",
    "Source",
    "no_labels",
    "open_source",
    "other_images",
]

SOURCES = ("digits", "npz", "folder", "tfds", "array_record", "clevr", "synthetic", "mixture")

# Why a source may have no labels.
UNLABELLED = {
    "npz": "there is no array 'labels'",
    "folder": "they are not in folders of several classes",
    "tfds": "their records have none, or data.label_key has to name it",
    "array_record": "their records have none, or data.label_key has to name it",
    "mixture": "a part of data.mixture has none, or no names for them",
}


def open_source(data: ConfigDict, split: str) -> Source:
    """The images of one split, as the section `data` of a config says.

    * `digits`: scikit-learn's 1,797 handwritten digits of 8×8; every fifth, from the first on,
      is in `data.test_split`, the rest in `data.train_split`.
    * `npz`: files with `images`, uint8 (n, H, W) or (n, H, W, C), and perhaps `labels`,
      integers (n,) from 0 on, and `masks`, uint8 (n, H, W).
    * `folder`: image files in a folder, a .zip or a .tar file (which are not unpacked), in class
      folders or all in one, which gives no labels. Images beside class folders are an error.
    * `tfds`: the data set `data.name` of TensorFlow Datasets (`imagenet2012:5.1.0`; without a
      version the newest on disk), prepared as array_record below `data.path` (empty: where TFDS
      keeps its own). A split may be an expression: `train[:90%]`.
    * `array_record`: ArrayRecord files of tf.train.Examples, or of image files as they are. A
      `features.json` of TFDS beside them is believed.
    * `clevr`: TFDS's `clevr`, found as tfds; `data.label_key` says whether the labels are VTAB's
      "count" or "distance".
    * `synthetic`: drawn pictures of 3 to 10 objects (see `synthetic.open_synthetic`); `data.name`
      says whether the labels are their "count" or the nearest one's "distance".
    * `mixture`: the sources of `data.mixture`, each a dict of what differs from `data` and its
      `weight`, 1 by default: its share of the images. An epoch lasts until all were seen, so
      that parts of much weight and few images repeat, evenly. A part that has other names for
      the splits says so; with an empty one it is left out of that split.

    `data.path` may name several files (see `paths.find`); they are joined, classes of the same
    name become one, and which folders are classes is seen over all of them. In records, the only
    image and the only class label are taken, or those with a usual name, or those that
    `data.image_key` and `data.label_key` say.

    With `data.validation`, that share of the training images stands in the place of the test
    split, and the training split lacks it; a part of a mixture without a test split is trained on
    as a whole.

    Raises UserError, in one line, for whatever can't be read.
    """
    if not split:
        raise UserError("no split to open: name it in data.train_split or data.test_split")
    # The parts of a mixture do it, each by itself; nobody would see what one without a test split
    # holds out.
    if data.get("validation") and data.test_split and data.source != "mixture":
        part = {data.train_split: without_validation, data.test_split: validation}.get(split)
        if part is None:
            raise UserError(
                f"data.validation={data.validation:g} is for data.train_split and data.test_split,"
                f" not for {split!r}: set it to 0"
            )
        return part(_open(data, data.train_split), data.validation)
    return _open(data, split)


def other_images(data: ConfigDict, **changes) -> ConfigDict:
    """The section `data` for other images than its own: found as `changes` say, looked at alike."""
    data = data.copy_and_resolve_references()
    own = {"name": None, "image_key": None, "label_key": None, "mixture": (), "validation": 0.0}
    data.update(own | changes)
    return data


def _open(data: ConfigDict, split: str) -> Source:
    # What is slow to import is imported where it is needed.
    match data.source:
        case "digits":
            return open_digits(data, split)
        case "npz":
            return joined([open_npz(path) for path in paths.find(data.path, split)])
        case "folder":
            return open_files(paths.find(data.path, split))
        case "tfds":
            from jepa_jax.data.tfds import open_tfds

            return open_tfds(data, split)
        case "array_record":
            from jepa_jax.data.records import open_array_record

            return open_array_record(paths.find(data.path, split), data)
        case "clevr":
            from jepa_jax.data.clevr import open_clevr

            return open_clevr(data, split)
        case "synthetic":
            return open_synthetic(data, split)
        case "mixture":
            return _open_mixture(data, split)
        case other:
            known = f"{', '.join(SOURCES)}{did_you_mean(other, SOURCES)}"
            raise UserError(f"data.source {other!r} is unknown: {known}")


def no_labels(data: ConfigDict, split: str) -> str:
    """Says that the images of a split have no labels, and why."""
    return f"the images of split {split!r} have no labels: {UNLABELLED[data.source]}"


def _open_mixture(data: ConfigDict, split: str) -> Source:
    sources, weights = [], []
    for part in mixture.parts(data):
        if name := mixture.split_in(part, data, split):
            sources.append(open_source(part.data, name))
            weights.append(part.weight)
    if not sources:
        raise UserError(f"data.mixture has no part with split {split!r}: name it in one of them")
    return mixture.mixed(sources, weights)
