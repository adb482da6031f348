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


class Dense(nn.Module):
    """x·kernel + bias over the last `input_axes` axes of x, to axes of the sizes `outputs`.

    A single product of two matrices: with more axes than that, XLA's CPU backend transposes
    the operands of the kernel's gradient, at four times its cost.

    With an `activation`, what it makes of the sum, which is computed again in the backward pass.
    """

    outputs: tuple[int, ...]
    dtype: jnp.dtype
    input_axes: int = 1
    activation: Callable[[Array], Array] | None = None

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
        if self.activation is None:
            result = _sum(product, offset)
        elif platform() == "tpu":  # which would keep more than the sum, if it were computed again
            result = jax.checkpoint(self.activation)(_sum(product, offset))
        else:
            result = jax.checkpoint(lambda *of: self.activation(_sum(*of)))(product, offset)
        return result.reshape(*leading, *self.outputs)


def _sum(product: Float[Array, "rows D"], offset: Float[Array, " D"]) -> Float[Array, "rows D"]:
    return product + jnp.broadcast_to(offset, product.shape)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """With the error function itself: of its complement, JAX's choice, XLA computes two forms."""
    real = x.astype(jnp.float32)
    return (0.5 * real * (1 + jax.lax.erf(real * math.sqrt(0.5)))).astype(x.dtype)


class LayerNorm(nn.Module):
    """Layer norm over the last axis, in float32; the result is of `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
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
    return result.astype(dtype), (x, mean, inverse, scale)


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
