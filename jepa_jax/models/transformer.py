"""The pre-norm transformer that the encoder and the predictor share."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.attention import attention

# What the reference trained: every weight is drawn with σ = .02 (its truncation at ±2 is a hundred
# σ away), after a depth-dependent rescaling that a second initialisation overwrites.
kernel_init = nn.initializers.normal(0.02)
LAYER_NORM_EPS = 1e-6

REMAT_POLICIES = {
    # "dots" keeps the results of the matrix products with weights, not the attention logits.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

Dense = functools.partial(nn.Dense, kernel_init=kernel_init)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=LAYER_NORM_EPS)


class SelfAttention(nn.Module):
    """Multi-head self-attention; heads come first, so that each is one matrix product."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], length: Int[Array, " B"] | None
    ) -> Float[Array, "B N D"]:
        width = x.shape[-1]
        general = functools.partial(nn.DenseGeneral, kernel_init=kernel_init, dtype=self.dtype)
        qkv = general((3, self.heads, width // self.heads), name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))
        mixed = attention(query, key, value, length)
        return general(width, axis=(1, 3), name="projection")(mixed)


class MLP(nn.Module):
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = Dense(self.hidden, dtype=self.dtype, name="hidden")(x)
        hidden = nn.gelu(hidden, approximate=False)
        return Dense(x.shape[-1], dtype=self.dtype, name="output")(hidden)


class Block(nn.Module):
    heads: int
    mlp_ratio: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], length: Int[Array, " B"] | None
    ) -> tuple[Float[Array, "B N D"], None]:
        attend = SelfAttention(self.heads, self.dtype, name="attention")
        x = x + attend(LayerNorm(dtype=self.dtype, name="norm_attention")(x), length)
        mlp = MLP(round(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")
        x = x + mlp(LayerNorm(dtype=self.dtype, name="norm_mlp")(x))
        return x, None  # nn.scan wants a carry and a result


class Transformer(nn.Module):
    """Blocks, scanned over parameters stacked along a leading depth axis, and a final norm."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], length: Int[Array, " B"] | None = None
    ) -> Float[Array, "B N D"]:
        """Args: x: tokens; length: how many of the N are real (None: all). Returns: tokens."""
        block = Block
        if self.remat != "none":
            # Inside a scan the compiler cannot merge the recomputation with the forward pass.
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        x, _ = stack(self.heads, self.mlp_ratio, self.dtype, name="blocks")(x, length)
        return LayerNorm(dtype=self.dtype, name="norm")(x)
