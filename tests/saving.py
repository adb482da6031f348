"""The folder of a run, with a checkpoint of random numbers, without the run."""

import functools
import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.training.checkpoints import Checkpoints
from jepa_jax.training.setup import build_model


def random_state(config: ConfigDict, step: int = 30) -> ijepa.State:
    """Every parameter and moment differs from all others; the moments could be real ones."""
    data, random = config.data, np.random.default_rng(step)
    model = build_model(config, steps_per_epoch=1)
    start = functools.partial(ijepa.init, model, image_shape=(*data.image_size, data.channels))

    def values(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.dtype == np.int32:
            return np.int32(step)
        numbers = random.normal(scale=0.1, size=leaf.shape).astype(leaf.dtype)
        return abs(numbers) if ".nu" in jax.tree_util.keystr(path) else numbers

    return jax.tree.map_with_path(values, jax.eval_shape(start, jax.random.key(0)))


def save_run(folder: pathlib.Path, config: ConfigDict, examples: int = 1000) -> ijepa.State:
    """What is saved, after the number of steps that it tells."""
    state = random_state(config)
    about = {"config": json.loads(config.to_json()), "data": {"examples": examples}}
    checkpoints = Checkpoints(folder / "checkpoints", config.train)
    checkpoints.save(int(state.step), jax.device_put(state), about)
    checkpoints.wait()
    (folder / "config.json").write_text(config.to_json())
    return state
