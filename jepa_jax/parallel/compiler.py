"""Options of XLA that are worth it: the one place where they are set."""

import functools

import jax

OPTIONS = {
    # Products of float32 matrices by Eigen, not YNNPACK: a twentieth of a step of ViT-Ti/16.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
}


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """For `jax.jit`: those for such devices that this version of XLA knows."""
    options = OPTIONS.get(platform, {})
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # INVALID_ARGUMENT: No such compile option
        return {}
    return options
