"""The pre-norm transformer that the encoder and the predictor share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.activation_sharding import split_by_batch
from jepa_jax.models.attention import attention, attention_by_block
from jepa_jax.models.layers import Dense, LayerNorm, gelu, result_dtype
from jepa_jax.models.platform import platform

REMAT_POLICIES = {
    # "dots" keeps the results of the matrix products with weights, not the attention logits.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

# What a trained network is evaluated with, however it was trained.
EXACT = {"dtype": jnp.float32, "residual": jnp.float32, "remat": "none"}


class SelfAttention(nn.Module):
    """Multi-head self-attention; heads come first, so that each is one matrix product.

    With `last`, only so many of the last tokens ask; all are attended to. With `block`, the tokens
    are [context | M blocks of so many], see `attention_by_block`.
    """

    heads: int
    dtype: jnp.dtype
    kernel: str
    block: int = 0
    last: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], length: Int[Array, "B ..."] | None
    ) -> Float[Array, "B last|N D"]:
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"a width of {width} does not divide into {self.heads} heads")
        # Heads are the first of the output axes, so that a mesh can split them.
        qkv = Dense((self.heads, 3, width // self.heads), self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv, (3, 2), (0, 2))
        attended = query[:, :, -self.last :], key, value, length
        if self.block:
            mixed = attention_by_block(*attended, self.block, self.kernel)
        else:
            mixed = attention(*attended, self.kernel)
        mixed = jnp.moveaxis(mixed, 1, 2)
        # Attention's kernels give no float8; to make it takes what a faster product would save.
        dtype = result_dtype(self.dtype)
        return Dense((width,), dtype, input_axes=2, name="projection")(mixed)


class MLP(nn.Module):
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = Dense((self.hidden,), self.dtype, activation=gelu, name="hidden")(x)
        return Dense(x.shape[-1:], self.dtype, name="output")(hidden)


class Block(nn.Module):
    """Attention and an MLP, each added to what comes in.

    With `last`, only for so many of the last tokens, which attend to all.

    For drop path, a collection "drop_path" may hold `keep`, (2, B): what the change of each image
    by the attention and by the MLP is multiplied with.
    """

    heads: int
    mlp_ratio: float
    dtype: jnp.dtype
    kernel: str
    block: int = 0
    last: int = 0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], length: Int[Array, "B ..."] | None
    ) -> tuple[Float[Array, "B last|N D"], None]:
        sizes = self.heads, self.dtype, self.kernel, self.block, self.last
        attend = SelfAttention(*sizes, name="attention")
        change = attend(LayerNorm(self.dtype, name="norm_attention")(x), length).astype(x.dtype)
        x = x[:, -self.last :] + self._kept(change, 0)
        mlp = MLP(round(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")
        change = mlp(LayerNorm(self.dtype, name="norm_mlp")(x)).astype(x.dtype)
        x = x + self._kept(change, 1)
        return split_by_batch(x), None  # nn.scan wants a carry and a result

    def _kept(self, change: Float[Array, "B N D"], which: int) -> Float[Array, "B N D"]:
        if not self.has_variable("drop_path", "keep"):
            return change
        keep = self.get_variable("drop_path", "keep")[which].astype(change.dtype)
        return keep[:, None, None] * change


class Transformer(nn.Module):
    """Blocks, whose parameters are stacked along a leading depth axis, and a final norm."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    # Blocks in one turn of the scan; of so many or fewer, there is none. 0: none on GPUs, else 1.
    unroll: int = 0
    kernel: str = "auto"  # of attention, see there
    block: int = 0  # tokens of a target block, if [context | M blocks] go through together
    # Of what the blocks add up: float32, as under PyTorch's autocast, or half of that.
    residual: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        length: Int[Array, "B ..."] | None = None,
        layers: int = 1,
        last: int = 0,
    ) -> Float[Array, "B last|N layers*D"]:
        """Tokens to tokens; these are float32.

        Args:
          length: how many of the N are real; None for all. With `block`, (B, M): of each block.
          layers: so many of the last blocks' tokens, each after the final norm, are given side by
            side, the last block's at the end.
          last: only so many of the last tokens are wanted, 0 for all; layers is 1 then. In the last
            block the others cost only their keys and values.
        """
        sizes = self.heads, self.mlp_ratio, self.dtype, self.kernel, self.block
        norm = LayerNorm(jnp.float32, name="norm")
        x = split_by_batch(x.astype(self.residual))
        if self.is_initializing():
            stack = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=self.depth,
            )
            x, _ = stack(*sizes, name="blocks")(x, length)
            return jnp.tile(norm(x[:, -last:]), layers)

        variables = {kind: tree["blocks"] for kind, tree in self.variables.items()}
        block, final = (self._block(Block(*sizes, own, parent=None), length) for own in (0, last))
        apart = 1 if last else layers if layers > 1 else 0  # of the last blocks
        if apart > self.depth:
            raise ValueError(f"{layers} layers of {self.depth}")
        # A scan copies what the backward pass needs to arrays of all turns, and back.
        unroll = self.unroll or (self.depth if platform() == "gpu" else 1)
        scanned = self.depth - apart
        if unroll >= scanned:
            scanned = 0
        stacked, others = _split(variables, scanned)
        if scanned:

            def turn(x, own):
                return block(x, own), None

            x, _ = jax.lax.scan(turn, x, stacked, unroll=unroll)
        tokens = [x]
        for own in others:
            tokens.append((final if own is others[-1] else block)(tokens[-1], own))
        return jnp.concatenate([norm(each) for each in tokens[-layers:]], axis=-1)

    def _block(self, block: Block, length: Array | None) -> Callable[[Array, Any], Array]:
        """As a function of tokens and variables."""

        def apply(x, variables):
            return block.apply(variables, x, length)[0]

        if self.remat == "none":
            return apply
        return jax.checkpoint(apply, policy=REMAT_POLICIES[self.remat])


def _split(stacked: Any, first: int) -> tuple[Any, list[Any]]:
    """The first so many blocks' variables, still stacked, and those of each of the others.

    The gradient is put together at once, not added up from blocks with zeros around them.
    """
    if platform() == "gpu":  # or XLA does so within the optimizer's kernels, element by element
        stacked = jax.lax.optimization_barrier(stacked)
    leaves, structure = jax.tree.flatten(stacked)
    sizes = [first] + [1] * (len(leaves[0]) - first)
    parts = zip(*(jax.lax.split(leaf, sizes) for leaf in leaves), strict=True)
    stacked, *others = (structure.unflatten(part) for part in parts)
    return stacked, [jax.tree.map(lambda leaf: leaf[0], own) for own in others]
