"""The table of all protocols."""

from jepa_jax.evaluation.attentive import ATTENTIVE
from jepa_jax.evaluation.finetune_run import FINETUNE, FINETUNE_FEW
from jepa_jax.evaluation.knn import KNN
from jepa_jax.evaluation.linear import LINEAR
from jepa_jax.evaluation.linear_sweep import LINEAR_SWEEP
from jepa_jax.evaluation.lowlevel import LOW_LEVEL
from jepa_jax.evaluation.lowshot import LOWSHOT
from jepa_jax.evaluation.segmentation import SEGMENTATION, SYNTHETIC_SEGMENTATION
from jepa_jax.evaluation.transfer import TRANSFER

IMAGES = KNN, LINEAR, LINEAR_SWEEP, ATTENTIVE, LOWSHOT, TRANSFER, FINETUNE, FINETUNE_FEW
ALL = *IMAGES, *LOW_LEVEL, SEGMENTATION, SYNTHETIC_SEGMENTATION
PROTOCOLS = {protocol.name: protocol for protocol in ALL}
