"""I-JEPA ViT-g/16 on ImageNet-22k, 224×224.

    python launch/train.py --config=configs/vitg16_in22k.py --workdir=runs/vitg16_in22k

Hardware: the published recipe has 128 A100 with 16 images each. Every number is that of
in22k_vitg16_ep44 but for the masks, which are the paper's (masks.style). Its transfer and
low-level results are in the paper's table 5.
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.path = "data/imagenet22k/{split}"
    c.data.test_split = ""  # it has none: evaluate on another data set
    c.model.size = "vit_g"
    c.model.remat = "dots"
    c.predictor.depth = 16
    c.train.epochs = 44.0
    c.train.warmup_epochs = 3.0
    return c
