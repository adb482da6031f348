"""Whether splits are different images, as far as their names tell."""

from collections import Counter
from collections.abc import Sequence

from ml_collections import ConfigDict

from jepa_jax.data import mixture
from jepa_jax.errors import UserError


def check_splits(data: ConfigDict, splits: Sequence[str], remedy: str) -> None:
    """Raises UserError if two of the splits are the same images.

    Args:
      data: the section of a config that names the source.
      remedy: what to do if one of the splits is not needed.
    """
    if data.source != "mixture":
        _check(data, splits, remedy, "data")
        return
    for i, part in enumerate(mixture.parts(data)):
        names = [mixture.split_in(part, data, split) for split in splits]
        _check(part.data, names, remedy, f"data.mixture[{i}]")


def _check(data: ConfigDict, splits: Sequence[str], remedy: str, where: str) -> None:
    if data.source == "tfds" and "{split}" in data.path:
        raise UserError(
            f"{where}.path={data.path!r} has {{split}}, but TFDS keeps all splits in one folder:"
            " name its data_dir, or '' for TFDS's own"
        )
    counts = Counter(filter(None, splits))  # a part of a mixture may lack some
    by_path = data.source in ("npz", "folder", "array_record")
    if by_path and len(counts) > 1 and not data.get("validation") and "{split}" not in data.path:
        raise UserError(
            f"{where}.path={data.path!r} has no {{split}}, so {' and '.join(map(repr, counts))}"
            f" would be the same images: name the splits with {{split}}, or {remedy}"
        )
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(
            f"{where} has the split {twice[0]!r} twice: hold other images out, or {remedy}"
        )
