"""I-JEPA ViT-H/16 on ImageNet-1k, 448×448.

    python launch/train.py --config=configs/vith16_448.py --workdir=runs/vith16_448

Images as class folders in data/imagenet/train and data/imagenet/val, or as TFDS builds them:
docs/data.md has the command.

Hardware: the published recipe has 128 A100 with 16 images each. Every number is that of
in1k_vith16-448_ep300 but for the masks, which are the paper's (masks.style); the paper reports
81.1 % with a linear probe (table 1).
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.image_size = (448, 448)
    c.model.size = "vit_h"
    c.model.remat = "dots"
    c.predictor.depth = 12
    return c
