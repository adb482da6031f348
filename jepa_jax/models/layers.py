"""What transformer blocks are made of: products with weights, layer norm, GELU.

What they leave for the backward pass is little. What is cheap to compute again is not kept: it
would cost a trip to memory and back for each step on the way.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jepa_jax.models.activation_sharding import split_as_kernel
from jepa_jax.models.platform import platform

# What the reference trained: every weight is drawn with σ = .02 (its truncation at ±2 is a hundred
# σ away), after a depth-dependent rescaling that a second initialisation overwrites.
kernel_init = nn.initializers.normal(0.02)
LAYER_NORM_EPS = 1e-6
FLOAT8 = jnp.float8_e4m3fn
FLOAT8_MAX = float(jnp.finfo(FLOAT8).max)  # what is larger would be NaN


def result_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Of a product with weights whose operands are of `dtype`: the same, but of float8 bfloat16."""
    return jnp.dtype(jnp.bfloat16 if dtype == FLOAT8 else dtype)


def cast(x: Float[Array, "..."], dtype: jnp.dtype) -> Float[Array, "..."]:
    """To `dtype`; to what float8 can hold, if it is that."""
    return (jnp.clip(x, -FLOAT8_MAX, FLOAT8_MAX) if dtype == FLOAT8 else x).astype(dtype)


class Dense(nn.Module):
    """x·kernel + bias over the last `input_axes` axes of x, to axes of the sizes `outputs`.

    A single product of two matrices: with more axes than that, XLA's CPU backend transposes
    the operands of the kernel's gradient, at four times its cost.

    With an `activation`, what it makes of the sum, which is computed again in the backward pass.

    With the dtype `FLOAT8`, of x and the kernel, the result is bfloat16. It is not for training:
    gradients would be float8 too, and vanish.
    """

    outputs: tuple[int, ...]
    dtype: jnp.dtype
    input_axes: int = 1
    activation: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        leading, inputs = x.shape[: -self.input_axes], x.shape[-self.input_axes :]
        kernel = self.param("kernel", kernel_init, (*inputs, *self.outputs), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.outputs, jnp.float32)
        if is_float8 := self.dtype == FLOAT8:
            kernel, scale = _in_range(kernel, self.input_axes)
        tokens, matrix = (
            cast(array, self.dtype).reshape(math.prod(axes), -1)
            for array, axes in ((x, leading), (kernel, inputs))
        )
        offset = bias.reshape(-1)
        if kernel.ndim > 2:
            matrix = split_as_kernel(matrix, heads=0 if self.input_axes > 1 else 1)
        if is_float8:
            of_result = result_dtype(self.dtype)
            product = jnp.matmul(tokens, matrix, preferred_element_type=of_result)
            product *= jnp.broadcast_to(scale.astype(of_result).reshape(-1), product.shape)
        else:
            product = tokens @ matrix
        if self.activation is None:
            result = _sum(product, offset)
        elif platform() == "tpu":  # which would keep more than the sum, if it were computed again
            result = jax.checkpoint(self.activation)(_sum(product, offset))
        else:
            result = jax.checkpoint(lambda *of: self.activation(_sum(*of)))(product, offset)
        return result.reshape(*leading, *self.outputs)


def _in_range(
    kernel: Float[Array, "..."], input_axes: int
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A kernel of which each output's weights fill the range of float8, and by what to multiply it.

    Float8's numbers are never closer than .002: of weights of .02 they would keep three bits at
    most, and of smaller ones fewer.
    """
    axes = tuple(range(input_axes))
    largest = jnp.abs(kernel).max(axes, keepdims=True)
    scale = jnp.maximum(largest / FLOAT8_MAX, jnp.finfo(kernel.dtype).tiny)  # or 0 / 0
    return kernel / jnp.broadcast_to(scale, kernel.shape), scale


def _sum(product: Float[Array, "rows D"], offset: Float[Array, " D"]) -> Float[Array, "rows D"]:
    """In the product's dtype. The offset is cast only when it has all rows: its gradient is a sum
    over these, which GPUs from Hopper on would take in bfloat16 throughout.
    """
    return product + jnp.broadcast_to(offset, product.shape).astype(product.dtype)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """With the error function itself: of its complement, JAX's choice, XLA computes two forms."""
    real = x.astype(jnp.float32)
    return (0.5 * real * (1 + jax.lax.erf(real * math.sqrt(0.5)))).astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32; the result is of `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        return layer_norm(jnp.dtype(self.dtype), x, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer_norm(
    dtype: jnp.dtype, x: Float[Array, "... D"], scale: Float[Array, " D"], bias: Float[Array, " D"]
) -> Float[Array, "... D"]:
    """Each row of x with a mean of 0 and a variance of 1, times scale, plus bias, both float32."""
    return _layer_norm(dtype, x, scale, bias)[0]


def _layer_norm(dtype, x, scale, bias):
    real = x.astype(jnp.float32)
    centred = real - (mean := real.mean(-1, keepdims=True))
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normal = centred * (inverse := jax.lax.rsqrt(variance + LAYER_NORM_EPS))
    result = normal * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)
    return cast(result, dtype), (x, mean, inverse, scale)


def _layer_norm_gradient(dtype, kept, gradient):
    *kept, scale = kept
    normal, change = _normal_and_change(*kept, gradient)
    scaled = change * jnp.broadcast_to(scale, change.shape)
    along = (scaled * normal).mean(-1, keepdims=True)
    x, _, inverse = kept
    of_x = (scaled - scaled.mean(-1, keepdims=True) - normal * along) * inverse
    if platform() == "gpu":  # what both use, XLA would write to memory for the sums over rows
        normal, change = _normal_and_change(*jax.lax.optimization_barrier((*kept, gradient)))
    leading = range(x.ndim - 1)
    return of_x.astype(x.dtype), (change * normal).sum(leading), change.sum(leading)


def _normal_and_change(x, mean, inverse, gradient):
    """In float32: x as it was before scale and bias, and the gradient of what came of it."""
    return (x.astype(jnp.float32) - mean) * inverse, gradient.astype(jnp.float32)


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)
