"""Numbers of the I-JEPA paper (Assran et al. 2023), to stand beside those that are measured."""

import re

from ml_collections import ConfigDict

from jepa_jax.models.vit import SIZES
from jepa_jax.pretrained import Pretrained

# (kind of protocol, data) -> encoder -> % (tables 1 to 4). With 1 % of ImageNet's labels the paper
# took the better of fine-tuning and a linear probe.
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
    ("linear", "CIFAR-100"): {"ViT-H/14": 87.5},
    ("linear", "Places205"): {"ViT-H/14": 58.4},
    ("linear", "iNaturalist 2018"): {"ViT-H/14": 47.6},
    ("clevr_count", "Clevr"): {"ViT-H/14": 86.7},
    ("clevr_distance", "Clevr"): {"ViT-H/14": 72.4},
}
KINDS = {"linear_sweep": "linear"}  # protocols that stand for another's number
DATA = {  # the first that fits
    "1 % of ImageNet": r"imagenet2012_subset/1pct",
    "ImageNet": r"imagenet2012|imagenet-?1k|\bimagenet\b",
    "CIFAR-100": r"cifar-?_?100",
    "Places205": r"places_?205",
    "iNaturalist 2018": r"(i_naturalist|inaturalist|inat)_?(20)?18",
    "Clevr": r"\bclevr",
}


def paper_numbers(protocol: str, data: ConfigDict | None) -> dict[str, float]:
    """Of each encoder of the paper the % for this protocol and these data; empty if it has none."""
    if data is None or data.source in ("digits", "synthetic"):
        return {}
    where = f"{data.name or ''} {data.path}".lower()
    known = next((name for name, pattern in DATA.items() if re.search(pattern, where)), None)
    return NUMBERS.get((KINDS.get(protocol, protocol), known), {})


def encoder_name(model: Pretrained | None) -> str:
    """As the paper calls it, such as "ViT-H/14"; empty if it is of no such size."""
    if model is None:
        return ""
    encoder, size = model.backbone.encoder, model.view.size
    sizes = {size[:2]: name for name, size in SIZES.items()}
    letter = sizes.get((encoder.width, encoder.depth), "vit_").removeprefix("vit_").capitalize()
    at = "" if size == (224, 224) else f" at {size[0]}"
    return f"ViT-{letter}/{encoder.patch_size}{at}" if letter else ""
