"""From a config to what a run is made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from jepa_jax.config import architecture, grid
from jepa_jax.ijepa import IJEPA, State, train_step
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.vit import Encoder
from jepa_jax.optim import AdamW, Schedules
from jepa_jax.parallel.compiler import compiler_options

PURPOSES = ("init", "masks", "flow", "drawing")


def purpose_key(seed: int, purpose: str) -> Array:
    """A random key for one use of randomness; steps and positions are folded into it.

    Always of threefry, whose draws are the same however many are made at once.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), PURPOSES.index(purpose))


def total_steps(config: ConfigDict, steps_per_epoch: int) -> int:
    """Steps of the whole run, at least one."""
    return max(1, round(config.train.epochs * steps_per_epoch))


def jit_step(sharding: State) -> Callable:
    """`ijepa.train_step` for a state that lies so, and that is donated.

    To be called, or lowered, with the mesh of the sharding set by `jax.set_mesh`.
    """
    device = jax.tree.leaves(sharding)[0].mesh.devices.flat[0]
    return jax.jit(
        train_step,
        static_argnums=0,
        donate_argnums=1,
        out_shardings=(sharding, None),
        compiler_options=compiler_options(device.platform),
    )


def build_model(config: ConfigDict, steps_per_epoch: int) -> IJEPA:
    """The two modules, their optimizer and its schedules."""
    common = {
        "dtype": jnp.dtype(config.model.dtype),
        "remat": config.model.remat,
        "unroll": config.model.unroll,
        "kernel": config.model.attention,
        "residual": jnp.dtype(config.model.residual),
    }
    size = architecture(config)
    of_patch = {
        "features": size["width"],
        "pixels": config.model.patch_size**2 * config.data.channels,
    }
    encoder = Encoder(patch_size=config.model.patch_size, **size, **common)
    predictor = Predictor(
        width=config.predictor.width,
        depth=config.predictor.depth,
        heads=config.predictor.heads or size["heads"],
        output_width=of_patch[config.targets],
        grid=grid(config),
        one_pass=config.predictor.one_pass,
        **common,
    )
    optim = config.optim
    schedules = Schedules(
        # As the published code rounds it: down.
        steps=max(1, int(optim.schedule_scale * total_steps(config, steps_per_epoch))),
        warmup_steps=round(config.train.warmup_epochs * steps_per_epoch),
        learning_rate=(
            optim.start_learning_rate,
            optim.learning_rate,
            optim.final_learning_rate,
        ),
        weight_decay=(optim.weight_decay, optim.final_weight_decay),
        momentum=tuple(optim.ema),
    )
    return IJEPA(
        encoder=encoder,
        predictor=predictor,
        optimizer=AdamW(optim.b1, optim.b2, optim.eps, optim.clip_norm, optim.first_moment_dtype),
        schedules=schedules,
        targets=config.targets,
        target_dtype=config.model.target_dtype and jnp.dtype(config.model.target_dtype),
        loss=config.loss,
        variance_weight=config.regularizer.variance,
        covariance_weight=config.regularizer.covariance,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        accumulate=config.train.accumulate,
        spike=config.guard.spike,
    )
