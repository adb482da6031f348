"""Options of XLA that are worth it: the one place where they are set."""

import functools

import jax

OPTIONS = {
    # Sums and maxima by YNNPACK, but products of matrices by Eigen.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"},
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
