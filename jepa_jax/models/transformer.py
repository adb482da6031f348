"""The pre-norm transformer that the encoder and the predictor share."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jepa_jax.models.activation_sharding import split_as_kernel, split_by_batch
from jepa_jax.models.attention import attention, attention_by_block
from jepa_jax.models.platform import platform

# What the reference trained: every weight is drawn with σ = .02 (its truncation at ±2 is a hundred
# σ away), after a depth-dependent rescaling that a second initialisation overwrites.
kernel_init = nn.initializers.normal(0.02)
LAYER_NORM_EPS = 1e-6

REMAT_POLICIES = {
    # "dots" keeps the results of the matrix products with weights, not the attention logits.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}

# What is cheaper to compute again than to keep for the backward pass: the latter costs a trip to
# memory and back for each step on the way. Outside of scans XLA would merge both passes again if
# it was let to.
again = jax.checkpoint


def along_rows(vector: Float[Array, " D"], shape: tuple[int, ...]) -> Float[Array, "... D"]:
    """The vector for each of the rows of an array of this shape.

    On a CPU its gradient, a sum over rows, is a product of matrices: XLA's sums are slow there.
    """
    if platform() != "cpu":
        return jnp.broadcast_to(vector, shape)
    return _repeated(math.prod(shape[:-1]), vector).reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _repeated(rows: int, vector: Array) -> Array:
    return jnp.broadcast_to(vector, (rows, vector.size))


def _sum_of_rows(rows: int, _: None, gradient: Array) -> tuple[Array]:
    return ((jnp.ones((1, rows), gradient.dtype) @ gradient)[0],)


_repeated.defvjp(lambda rows, vector: (_repeated(rows, vector), None), _sum_of_rows)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32; the result is of `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _layer_norm(x.astype(jnp.float32), scale, bias).astype(self.dtype)


@again
def _layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPS)
    return normal * along_rows(scale, x.shape) + along_rows(bias, x.shape)


@again
def _gelu(x: Array) -> Array:
    """With the error function itself: of its complement, JAX's choice, XLA computes two forms."""
    real = x.astype(jnp.float32)
    return (0.5 * real * (1 + jax.lax.erf(real * math.sqrt(0.5)))).astype(x.dtype)


class Dense(nn.Module):
    """x·kernel + bias over the last `len(inputs)` axes of x, to axes of the sizes `outputs`.

    A single product of two matrices: with more axes than that, XLA's CPU backend transposes
    the operands of the kernel's gradient, at four times its cost.
    """

    outputs: tuple[int, ...]
    dtype: jnp.dtype
    input_axes: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        leading, inputs = x.shape[: -self.input_axes], x.shape[-self.input_axes :]
        kernel = self.param("kernel", kernel_init, (*inputs, *self.outputs))
        bias = self.param("bias", nn.initializers.zeros, self.outputs)
        tokens, matrix, offset = (
            array.astype(self.dtype).reshape(shape)
            for array, shape in (
                (x, (math.prod(leading), -1)),
                (kernel, (math.prod(inputs), -1)),
                (bias, (-1,)),
            )
        )
        if kernel.ndim > 2:
            matrix = split_as_kernel(matrix, heads=0 if self.input_axes > 1 else 1)
        product = tokens @ matrix
        return (product + along_rows(offset, product.shape)).reshape(*leading, *self.outputs)


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
        # Heads are the first of the output axes, so that a mesh can split them.
        qkv = Dense((self.heads, 3, width // self.heads), self.dtype, name="qkv")(x)
        query, key, value = jnp.moveaxis(qkv, (3, 2), (0, 2))
        attended = query[:, :, -self.last :], key, value, length
        if self.block:
            mixed = attention_by_block(*attended, self.block, self.kernel)
        else:
            mixed = attention(*attended, self.kernel)
        mixed = jnp.moveaxis(mixed, 1, 2)
        return Dense((width,), self.dtype, input_axes=2, name="projection")(mixed)


class MLP(nn.Module):
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        hidden = Dense((self.hidden,), self.dtype, name="hidden")(x)
        hidden = _gelu(hidden)
        return Dense((x.shape[-1],), self.dtype, name="output")(hidden)


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
        # What the blocks add up stays in float32, as under PyTorch's autocast.
        change = attend(LayerNorm(self.dtype, name="norm_attention")(x), length).astype(x.dtype)
        x = x[:, -self.last :] + self._kept(change, 0)
        mlp = MLP(round(x.shape[-1] * self.mlp_ratio), self.dtype, name="mlp")
        change = mlp(LayerNorm(self.dtype, name="norm_mlp")(x)).astype(x.dtype)
        x = x + self._kept(change, 1)
        return split_by_batch(x), None  # nn.scan wants a carry and a result

    def _kept(self, change: Float[Array, "B N D"], which: int) -> Float[Array, "B N D"]:
        if not self.has_variable("drop_path", "keep"):
            return change
        return self.get_variable("drop_path", "keep")[which][:, None, None] * change


class Transformer(nn.Module):
    """Blocks, whose parameters are stacked along a leading depth axis, and a final norm."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 1  # blocks in one turn of the scan; of so many or fewer, there is none
    kernel: str = "auto"  # of attention, see there
    block: int = 0  # tokens of a target block, if [context | M blocks] go through together

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        length: Int[Array, "B ..."] | None = None,
        layers: int = 1,
        last: int = 0,
    ) -> Float[Array, "B last|N layers*D"]:
        """Tokens to tokens, both float32.

        Args:
          length: how many of the N are real; None for all. With `block`, (B, M): of each block.
          layers: so many of the last blocks' tokens, each after the final norm, are given side by
            side, the last block's at the end.
          last: only so many of the last tokens are wanted, 0 for all; layers is 1 then. In the last
            block the others cost only their keys and values.
        """
        sizes = self.heads, self.mlp_ratio, self.dtype, self.kernel, self.block
        norm = LayerNorm(jnp.float32, name="norm")
        x = split_by_batch(x)
        if self.is_initializing():
            stack = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=self.depth,
            )
            x, _ = stack(*sizes, name="blocks")(x, length)
            return norm(x[:, -last:])

        variables = {kind: tree["blocks"] for kind, tree in self.variables.items()}
        block, final = (self._block(Block(*sizes, own, parent=None), length) for own in (0, last))
        apart = 1 if last else layers if layers > 1 else 0  # of the last blocks
        if apart > self.depth:
            raise ValueError(f"{layers} layers of {self.depth}")
        # A scan copies what the backward pass needs to arrays of all turns, and back.
        scanned = self.depth - apart
        if self.unroll >= scanned:
            scanned = 0
        stacked, others = _split(variables, scanned)
        if scanned:

            def turn(x, own):
                return block(x, own), None

            x, _ = jax.lax.scan(turn, x, stacked, unroll=self.unroll)
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
    leaves, structure = jax.tree.flatten(stacked)
    sizes = [first] + [1] * (len(leaves[0]) - first)
    parts = zip(*(jax.lax.split(leaf, sizes) for leaf in leaves), strict=True)
    stacked, *others = (structure.unflatten(part) for part in parts)
    return stacked, [jax.tree.map(lambda leaf: leaf[0], own) for own in others]
