"""The table of all protocols."""

from jepa_jax.evaluation.knn import KNN
from jepa_jax.evaluation.linear import LINEAR

PROTOCOLS = {protocol.name: protocol for protocol in (KNN, LINEAR)}
