"""What a checkpoint tells of the run that it is of."""

import hashlib
import json
import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import jepa_jax
from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.sources import Source
from jepa_jax.data.subset import spread
from jepa_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
SAMPLE = 16  # examples that stand for all


def about_run(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Config, versions and machine, as JSON."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {
        "config": json.loads(config.to_json()),
        "versions": {
            "jepa_jax": jepa_jax.__version__,
            "python": platform.python_version(),
            **versions,
        },
        "mesh": {
            **mesh.shape,
            "processes": jax.process_count(),
            "device": jax.devices()[0].device_kind,
        },
    }


def data_identity(source: Source) -> dict[str, Any]:
    """How many examples, and a digest of some of them: the same wherever they are stored."""
    digest = hashlib.sha256()
    for index in spread(len(source), SAMPLE).tolist():
        try:
            image = source[index].image
        except BLAMELESS:  # another start would take them for other images
            raise
        except UserError:
            image = b"unreadable"
        digest.update(image if isinstance(image, bytes) else np.ascontiguousarray(image).tobytes())
    return {"examples": len(source), "sample": digest.hexdigest()[:16]}
