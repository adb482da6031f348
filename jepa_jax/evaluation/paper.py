"""Numbers of the I-JEPA paper (Assran et al. 2023), to stand beside those that are measured."""

import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jepa_jax.models.vit import SIZES
from jepa_jax.pretrained import Pretrained

# (kind of protocol, data) -> encoder -> % (tables 1 to 5, and 15). With 1 % of ImageNet's labels
# the paper took the better of fine-tuning and a linear probe.
ONE_PERCENT = {"ViT-L/16": 69.4, "ViT-H/14": 73.3, "ViT-H/16 at 448": 77.3}
NUMBERS = {
    ("linear", "ImageNet"): {
        "ViT-B/16": 72.9,
        "ViT-L/16": 77.5,
        "ViT-H/14": 79.3,
        "ViT-H/16 at 448": 81.1,
    },
    ("lowshot", "ImageNet"): ONE_PERCENT,
    ("linear", "1 % of ImageNet"): ONE_PERCENT,
    ("finetune_few", "1 % of ImageNet"): ONE_PERCENT,
    ("finetune", "ImageNet"): {"ViT-H/16 at 448": 87.1},
    ("linear", "CIFAR-100"): {"ViT-H/14": 87.5, "ViT-H/14, IN22k": 89.5, "ViT-G/16, IN22k": 89.5},
    ("linear", "Places205"): {"ViT-H/14": 58.4, "ViT-H/14, IN22k": 57.8, "ViT-G/16, IN22k": 59.1},
    ("linear", "iNaturalist 2018"): {
        "ViT-H/14": 47.6,
        "ViT-H/14, IN22k": 50.5,
        "ViT-G/16, IN22k": 55.3,
    },
    ("clevr_count", "Clevr"): {
        "ViT-H/14": 86.7,
        "ViT-H/14, IN22k": 88.6,
        "ViT-G/16, IN22k": 86.7,
    },
    ("clevr_distance", "Clevr"): {
        "ViT-H/14": 72.4,
        "ViT-H/14, IN22k": 75.0,
        "ViT-G/16, IN22k": 73.0,
    },
}
KINDS = {"linear_sweep": "linear"}  # protocols that stand for another's number
DATA = {  # whole names: tiny-imagenet and imagenet-r are other images
    "1 % of ImageNet": r"imagenet2012_subset/1pct",
    "ImageNet": r"(imagenet|ilsvrc)[-_]?(1k|2012)?",
    "CIFAR-100": r"cifar[-_]?100",
    "Places205": r"places[-_]?205",
    "iNaturalist 2018": r"(i_naturalist|inaturalist|inat)[-_]?(20)?18",
    "Clevr": r"clevr(_v1)?",
}
# What a path has after the name of its data: splits, versions, shards, the folders of ImageNet's
# archive.
PARTS = r"(train|val|validation|test|images|data|cls-loc|[\d.]+|\d+-of-\d+)?"


def paper_numbers(protocol: str, data: ConfigDict | None, row: str = "") -> dict[str, float]:
    """Of each encoder of the paper the % for this protocol and these data; empty if it has none.

    Args:
      row: of the table, the one that counts: a share, or a file that names the images. The paper's
        number of few labels is for 1 %.
    """
    if data is None or data.source in ("digits", "synthetic"):
        return {}
    if protocol == "lowshot" and not re.match(r"1 ?(%|percent)", row.rpartition("/")[2]):
        return {}
    name = _name(data).lower()
    known = next((each for each, pattern in DATA.items() if re.fullmatch(pattern, name)), None)
    return NUMBERS.get((KINDS.get(protocol, protocol), known), {})


def _name(data: ConfigDict) -> str:
    """That of TFDS without the version, or the last part of the path that tells what data it is."""
    if data.name:
        return data.name.partition(":")[0]
    parts = [
        re.split(r"[.*]", part.replace("{split}", ""))[0].strip("-_")
        for part in data.path.split("/")
    ]
    told = [part for part in parts if not re.fullmatch(PARTS, part.lower())]
    return told[-1] if told else ""


def encoder_name(model: Pretrained | None) -> str:
    """As the paper calls it, such as "ViT-H/14"; with ", IN22k" if it was trained on that.

    Empty if it is of no such size, or of no training: of that it would tell.
    """
    if model is None or not model.about:
        return ""
    encoder, size = model.backbone.encoder, model.view.size
    sizes = {size[:2]: name for name, size in SIZES.items()}
    letter = sizes.get((encoder.width, encoder.depth), "vit_").removeprefix("vit_").capitalize()
    at = "" if size == (224, 224) else f" at {size[0]}"
    return f"ViT-{letter}/{encoder.patch_size}{at}{_large(model.about)}" if letter else ""


def _large(about: Mapping[str, Any]) -> str:
    """Whether it was trained on ImageNet-22k, which others call 21k, by file name or config."""
    data = about.get("config", {}).get("data", {})
    told = about.get("source"), data.get("name"), data.get("path")
    return ", IN22k" if re.search(r"2[12]k", " ".join(filter(None, told)).lower()) else ""
