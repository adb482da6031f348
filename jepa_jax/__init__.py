"""jepa_jax: pre-train I-JEPA (Assran et al. 2023) on images with JAX.

Nothing is imported here, so that `import jepa_jax.losses` costs what `import jax` costs.
"""

__version__ = "0.1.0"
