"""Opens sources as a config would; what the tests of sources share."""

import numpy as np
from ml_collections import ConfigDict

from jepa_jax.data.sources import open_source


def settings(source, path=""):
    return ConfigDict(
        {"source": source, "path": str(path), "train_split": "train", "test_split": "val"}
    )


def read(path, source="folder", split="train"):
    return open_source(settings(source, path), split)


def labels(source):
    return source.labels(np.arange(len(source))).tolist()
