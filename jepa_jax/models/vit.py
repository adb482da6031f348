"""The encoder: a vision transformer without class token, on all patches or on some."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.layers import Dense, kernel_init, result_dtype
from jepa_jax.models.positions import sincos_2d
from jepa_jax.models.transformer import Transformer

# width, depth, heads, MLP ratio. Ti to B from DeiT, L and H from ViT, g from the published code.
SIZES = {
    "vit_ti": (192, 12, 3, 4.0),
    "vit_s": (384, 12, 6, 4.0),
    "vit_b": (768, 12, 12, 4.0),
    "vit_l": (1024, 24, 16, 4.0),
    "vit_h": (1280, 32, 16, 4.0),
    "vit_g": (1408, 40, 16, 48 / 11),
}


def patchify(images: Float[Array, "B Y X C"], patch_size: int) -> Float[Array, "B N F"]:
    """Cuts images into square patches, in raster order; F = patch_size² · C, channels last."""
    batch, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"images of {height}×{width} do not divide into patches of {patch_size}")
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)


def take_patches(x: Float[Array, "B N D"], index: Int[Array, "B ..."]) -> Float[Array, "B ... D"]:
    """The patches of each image that `index` names: (B, K) or (B, M, P) of them, for instance."""
    flat = index.reshape(index.shape[0], -1, 1)
    return jnp.take_along_axis(x, flat, axis=1).reshape(*index.shape, x.shape[-1])


class Encoder(nn.Module):
    """f_θ, and with the moving average of its parameters f_θ̄ (paper, section 3)."""

    width: int
    depth: int
    heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 0
    kernel: str = "auto"
    residual: jnp.dtype = jnp.float32  # of what the blocks add up
    positions: str = "sincos"  # or "learned": a parameter, for encoders that others have tuned

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B Y X C"],
        index: Int[Array, "B ... K"] | None = None,
        layers: int = 1,
    ) -> Float[Array, "B ... K layers*D"]:
        """Features of an image's patches.

        Args:
          images: normalised; height and width multiples of the patch size.
          index: raster indices of the patches that the encoder may see; None for all. With axes
            between the first and the last, of several views of an image, which are apart.
          layers: how many of the last blocks' features to give side by side, the last at the end.

        Returns:
          Features after the final norm, in the order of `index`; float32.
        """
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        if self.positions == "learned":
            shape = rows * columns, self.width
            positions = self.param("positions", kernel_init, shape, jnp.float32)
        elif self.positions != "sincos":
            raise ValueError(f"positions {self.positions!r}: take sincos or learned")
        else:
            positions = jnp.asarray(sincos_2d(self.width, rows, columns))
        patches = patchify(images, self.patch_size)
        if index is None:
            positions = positions[None]
        else:  # before the embedding: patches that are not seen cost nothing
            patches = take_patches(patches, index)
            positions = positions[index]
        # Pixels are not for float8: it has some hundred values for them.
        x = Dense((self.width,), result_dtype(self.dtype), name="patch_embed")(patches)
        x = x.astype(jnp.float32) + positions
        features = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.dtype,
            self.remat,
            self.unroll,
            self.kernel,
            residual=self.residual,
            name="transformer",
        )(x.reshape(-1, *x.shape[-2:]), layers=layers)
        return features.reshape(*x.shape[:-1], -1)
