"""The predictor: a narrow transformer that fills in one target block at a time."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.layers import Dense, kernel_init
from jepa_jax.models.positions import sincos_2d
from jepa_jax.models.transformer import Transformer


class Predictor(nn.Module):
    """g_φ(s_x, {m_j}): from the context's features and positions of a block to its features."""

    width: int
    depth: int
    heads: int
    output_width: int
    grid: tuple[int, int]
    mlp_ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 0
    kernel: str = "auto"
    residual: jnp.dtype = jnp.float32  # of what the blocks add up
    one_pass: bool = False  # the context goes through once for all blocks, and doesn't see them

    @nn.compact
    def __call__(
        self,
        context: Float[Array, "... K D"],
        context_index: Int[Array, "... K"],
        target_index: Int[Array, "... M P"],
        target_length: Int[Array, "... M"],
    ) -> Float[Array, "... M P output_width"]:
        """Predicted features of every target block, each block by itself (paper, section 3).

        Args:
          context: the context encoder's features of the patches `context_index`.
          target_index: raster indices of the M blocks' patches, padded to P.
          target_length: how many of the P are real; what comes out for the others is meaningless.
        """
        blocks, patches = target_index.shape[-2:]
        positions = jnp.asarray(sincos_2d(self.width, *self.grid))
        mask_token = self.param("mask_token", kernel_init, (1, 1, self.width), jnp.float32)

        seen = Dense((self.width,), self.dtype, name="embed")(context)
        seen = seen.astype(jnp.float32) + positions[context_index]
        seen = seen.reshape(-1, *seen.shape[-2:])
        asked = mask_token + positions[target_index.reshape(-1, patches)]

        if self.one_pass:  # [context | block | … | block]
            asked = asked.reshape(len(seen), blocks * patches, self.width)
            length = target_length.reshape(-1, blocks)
        else:  # One sequence for each block: [context | block], so the padding stands at the end.
            length = (seen.shape[1] + target_length).reshape(-1)
            seen = jnp.repeat(seen, blocks, axis=0)
        x = Transformer(
            self.depth,
            self.heads,
            self.mlp_ratio,
            self.dtype,
            self.remat,
            self.unroll,
            self.kernel,
            block=patches if self.one_pass else 0,
            residual=self.residual,
            name="transformer",
        )(jnp.concatenate([seen, asked], axis=1), length, last=asked.shape[1])
        x = Dense((self.output_width,), self.dtype, name="output")(x)
        return x.reshape(*target_index.shape, self.output_width)
