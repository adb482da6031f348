"""The table of all protocols."""

from jepa_jax.evaluation.knn import KNN
from jepa_jax.evaluation.linear import LINEAR
from jepa_jax.evaluation.linear_sweep import LINEAR_SWEEP

PROTOCOLS = {protocol.name: protocol for protocol in (KNN, LINEAR, LINEAR_SWEEP)}
