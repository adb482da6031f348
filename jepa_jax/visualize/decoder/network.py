"""The decoder's network: a small transformer over a block's patches, told what is predicted."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jepa_jax.models.layers import LayerNorm
from jepa_jax.models.positions import sincos_2d

FREQUENCIES = 16  # of the flow's time
LEAST = 0.05  # of the time left, by which the distance to the data is divided


class Network(nn.Module):
    """The velocity of a block's pixels, given the pooled prediction and the block's place.

    As in a diffusion transformer (Peebles & Xie 2023), what is given scales and shifts all tokens
    (adaLN-Zero). It sees no pixel of the image but the block's own, in which the noise is.
    """

    grid: tuple[int, int]
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n P F"],
        time: Float[Array, "n"],
        condition: Float[Array, "n D"],
        patches: Int[Array, "n P"],
        real: Bool[Array, "n P"],
    ) -> Float[Array, "n P F"]:
        """The velocity of each patch's pixels.

        Args:
          x: pixels on their way from noise (time 0) to data (time 1).
          condition: the predictor's output, averaged over the block.
          patches: raster indices of the block's patches, padded.
          real: which of them are no padding.
        """
        inside = jax.nn.one_hot(patches, self.grid[0] * self.grid[1])
        inside = inside.max(1, where=real[..., None], initial=0.0)
        given = jnp.concatenate([_waves(time), condition, inside], axis=-1)
        given = nn.silu(nn.Dense(self.width, name="given_hidden")(given))
        given = nn.silu(nn.Dense(self.width, name="given")(given))

        positions = jnp.asarray(sincos_2d(self.width, *self.grid))
        tokens = nn.Dense(self.width, name="embed")(x) + positions[patches]
        for number in range(self.depth):
            tokens = _Block(self.heads, name=f"block_{number}")(tokens, given, real)
        data = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="output")(
            _modulated(tokens, given, "final")[0]
        )
        # It says where the line ends, which is easier for few weights than noise is (Li & He 2025).
        return (data - x) / jnp.maximum(1 - time, LEAST)[:, None, None]


class _Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, tokens: Array, given: Array, real: Array) -> Array:
        # Drawn wider than the encoder's: σ = .02 would need more steps than a decoder trains.
        x, gate = _modulated(tokens, given, "attention")
        attend = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        tokens += gate * attend(x, mask=real[:, None, None])
        x, gate = _modulated(tokens, given, "mlp")
        hidden = nn.gelu(nn.Dense(4 * x.shape[-1], name="hidden")(x))
        return tokens + gate * nn.Dense(x.shape[-1], name="output")(hidden)


def _modulated(tokens: Array, given: Array, name: str) -> tuple[Array, Array]:
    """Normed tokens, shifted and scaled by what is given, and a gate for what becomes of them."""
    numbers = nn.Dense(
        3 * tokens.shape[-1], kernel_init=nn.initializers.zeros, name=f"{name}_modulation"
    )(given)
    shift, scale, gate = jnp.split(numbers[:, None], 3, axis=-1)
    return LayerNorm(jnp.float32, name=f"{name}_norm")(tokens) * (1 + scale) + shift, gate


def _waves(time: Float[Array, "n"]) -> Float[Array, "n 2*FREQUENCIES"]:
    """Sines and cosines of the flow's time, of a turn in 2 to 0.01."""
    angles = time[:, None] * jnp.pi * jnp.geomspace(1.0, 200.0, FREQUENCIES)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
