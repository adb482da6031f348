"""I-JEPA ViT-L/16 on ImageNet-1k, 224×224.

    python launch/train.py --config=configs/vitl16.py --workdir=runs/vitl16

Images as class folders in data/imagenet/train and data/imagenet/val, or as TFDS builds them:
docs/data.md has the command.

Hardware: made for 16 accelerators of 40 GB or more, 128 images each. 600 epochs and the depth of
the predictor are the paper's (table 1, appendix A.1), the rest is the published ViT-H/14 recipe,
as none was published for this size; the paper reports 77.5 % with a linear probe (table 1).
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.model.size = "vit_l"
    c.model.remat = "dots"
    c.predictor.depth = 12
    c.train.epochs = 600.0
    return c
