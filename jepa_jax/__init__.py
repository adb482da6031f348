"""jepa_jax: pre-train I-JEPA (Assran et al. 2023) on images with JAX.

    model = jepa_jax.load("runs/digits")  # or a released .pth.tar, or a Hugging Face folder
    features = model.features(images)  # uint8 (B, H, W, C) -> float32 (B, width)

Nothing is imported here, so that `import jepa_jax.losses` costs what `import jax` costs.
"""

__version__ = "0.1.0"


def load(path, encoder="target", *, heads=None, mean=None, std=None):
    """A trained encoder: see `jepa_jax.interop.load.load`."""
    from jepa_jax.interop import load

    return load.load(path, encoder, heads=heads, mean=mean, std=std)
