"""I-JEPA ViT-H/14 on ImageNet-1k, 224×224: the paper's main model.

    python launch/train.py --config=configs/vith14.py --workdir=runs/vith14

Images as class folders in data/imagenet/train and data/imagenet/val, or as TFDS builds them:
docs/data.md has the command.

Hardware: the paper took 16 A100 for under 72 hours. Every number is that of the published recipe
in1k_vith14_ep300 but for the masks, which are the paper's (masks.style); the paper reports 79.3 %
with a linear probe (table 1).
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.model.size = "vit_h"
    c.model.patch_size = 14
    c.model.remat = "dots"
    c.predictor.depth = 12
    return c
