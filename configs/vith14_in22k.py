"""I-JEPA ViT-H/14 on ImageNet-22k, 224×224.

    python launch/train.py --config=configs/vith14_in22k.py --workdir=runs/vith14_in22k

Hardware: the published recipe has 64 A100 with 32 images each. Every number is that of
in22k_vith14_ep66 but for the masks, which are the paper's (masks.style). The paper names no
ImageNet-1k linear probe for it; its transfer and low-level results are in table 5.
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.path = "data/imagenet22k/{split}"
    c.data.test_split = ""  # it has none: evaluate on another data set
    c.model.size = "vit_h"
    c.model.patch_size = 14
    c.model.remat = "dots"
    c.predictor.depth = 12
    c.train.epochs = 66.0
    c.train.warmup_epochs = 3.0
    return c
