"""Which entries of a record are the image and the label, and what the classes are."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jepa_jax.errors import UserError, did_you_mean

# What these entries are usually called, the most usual first.
IMAGE, LABEL = ("image", "image/encoded", "jpg", "png"), ("label", "image/class/label", "cls")
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


class Fields(NamedTuple):
    """Names of entries; `image` is None where a record is nothing but an image file."""

    image: str | None
    label: str | None = None
    classes: tuple[str, ...] | None = None
    limit: int = 2**31  # labels are below it


def is_image_file(value: bytes) -> bool:
    """Whether the bytes begin as those of an image file do."""
    return value.startswith(MAGIC)


def from_spec(spec: Any, data: ConfigDict, where: Path) -> Fields:
    """From the features that TFDS keeps beside its files.

    Of several images or labels the one with a usual name counts, unless data.image_key or
    data.label_key says which. What is missing or remains open raises UserError.
    """
    import tensorflow_datasets as tfds  # takes half a second

    entries = dict(_flat(spec, tfds.features.FeaturesDict))
    images = [
        key
        for key, entry in entries.items()
        if isinstance(entry, tfds.features.Image)
        and not isinstance(entry, tfds.features.LabeledImage)  # its pixels are classes
    ]
    labels = [key for key, entry in entries.items() if isinstance(entry, tfds.features.ClassLabel)]
    image = _choose("image", images, IMAGE, data, entries, where)
    if image is None:
        raise UserError(f"{where} has no image, only {', '.join(entries)}: name another data set")
    label = _choose("label", labels, LABEL, data, entries, where)
    numbers = [
        key
        for key, entry in entries.items()
        if isinstance(entry, tfds.features.Tensor)
        and entry.shape == ()
        and np.issubdtype(entry.np_dtype, np.integer)
    ]
    _check_label(label, numbers, where)
    if label not in labels or not entries[label].num_classes:
        return Fields(image, label)
    names, count = entries[label].names, entries[label].num_classes
    if names == [str(number) for number in range(count)]:  # numbers are no names
        return Fields(image, label, limit=count)
    return Fields(image, label, tuple(names), count)


def from_folder(folder: Path, data: ConfigDict) -> Fields | None:
    """From the `features.json` in a folder; None if it has none."""
    if not (folder / "features.json").exists():
        return None
    import tensorflow_datasets as tfds

    try:
        spec = tfds.features.FeaturesDict.from_config(str(folder))
    except Exception as error:  # of all kinds, on a file that is broken or of another version
        message = f"{folder}/features.json can't be understood: mend it, or remove it to do without"
        raise UserError(message) from error
    return from_spec(spec, data, folder)


def from_example(entries: Any, data: ConfigDict, where: str) -> Fields:
    """From one tf.train.Example alone: what looks like an image, what is called like a label."""
    images = [
        key
        for key, value in entries.items()
        if len(value.bytes_list.value) == 1 and is_image_file(value.bytes_list.value[0])
    ]
    labels = [key for key in LABEL if key in entries and entries[key].HasField("int64_list")]
    image = _choose("image", images, IMAGE, data, entries, where)
    if image is None:
        raise UserError(
            f"{where} has no encoded image, only {', '.join(sorted(entries))}: encode it as JPEG "
            "or PNG"
        )
    label = _choose("label", labels, LABEL, data, entries, where)
    _check_label(label, [key for key in entries if entries[key].HasField("int64_list")], where)
    return Fields(image, label)


def _check_label(label: str | None, numbers: Collection[str], where: Path | str) -> None:
    if label is not None and label not in numbers:
        usable = f"name one of {', '.join(sorted(numbers))}" if numbers else "leave it out"
        raise UserError(f"data.label_key={label!r} is no whole number in {where}: {usable}")


def _choose(
    kind: str,
    found: Sequence[str],
    usual: Sequence[str],
    data: ConfigDict,
    entries: Collection[str],
    where: Path | str,
) -> str | None:
    setting = f"data.{kind}_key"
    if key := data.get(f"{kind}_key"):
        if key not in entries:
            raise UserError(
                f"{setting}={key!r} isn't in {where}, which has {', '.join(sorted(entries))}"
                f"{did_you_mean(key, entries)}"
            )
        return key
    if len(found) < 2:
        return found[0] if found else None
    if known := [key for key in usual if key in found]:
        return known[0]
    several = f"{where} has several {kind}s, {', '.join(sorted(found))}"
    raise UserError(f"{several}: name one in {setting}")


def _flat(spec: Any, group: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name in the file, feature) of what is not in lists."""
    for key, feature in spec.items():
        if isinstance(feature, group):
            yield from _flat(feature, group, f"{prefix}{key}/")
        else:
            yield prefix + key, feature
