"""Where images come from: opens what the section `data` of a config names."""

from ml_collections import ConfigDict

from jepa_jax.data import paths
from jepa_jax.data.arrays import ArraySource, open_digits, open_npz
from jepa_jax.data.files import open_files
from jepa_jax.data.joined import JoinedSource
from jepa_jax.data.protocol import Example, Source
from jepa_jax.errors import UserError

__all__ = ["ArraySource", "Example", "Source", "open_source"]


def open_source(data: ConfigDict, split: str) -> Source:
    """The images of one split, as the section `data` of a config says.

    * `digits`: scikit-learn's 1,797 handwritten digits of 8×8; every fifth, from the first on,
      is in `data.test_split`, the rest in `data.train_split`.
    * `npz`: files with `images`, uint8 (n, H, W) or (n, H, W, C), and perhaps `labels`,
      integers (n,).
    * `folder`: image files in a folder, a .zip or a .tar file (which are not unpacked), in class
      folders or all in one, which gives no labels. Images beside class folders are an error.

    `data.path` may name several (see `paths.find`); they are joined, and classes of the same
    name become one.

    Raises UserError, in one line, for whatever can't be read.
    """
    if not split:
        raise UserError("no split to open: name it in data.train_split or data.test_split")
    match data.source:
        case "digits":
            return open_digits(data, split)
        case "npz":
            parts = [open_npz(path) for path in paths.find(data.path, split)]
        case "folder":
            parts = [open_files(path) for path in paths.find(data.path, split)]
        case other:
            raise UserError(f"data.source {other!r} is unknown: digits, npz or folder")
    return parts[0] if len(parts) == 1 else JoinedSource(parts)
