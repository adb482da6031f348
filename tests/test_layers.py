"""What blocks are made of: layer norm, whose gradient is written out, and products with weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax.models import layers, transformer
from jepa_jax.models.layers import LAYER_NORM_EPS, Dense, gelu, layer_norm
from jepa_jax.models.transformer import Transformer

DEVICES = ["cpu", "gpu", "tpu"]  # which go different ways


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch) -> str:
    for module in (layers, transformer):
        monkeypatch.setattr(module, "platform", lambda: request.param)
    return request.param


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(x, scale, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + LAYER_NORM_EPS) * scale[None, None] + bias[None, None]


def test_the_gradient_of_the_norm(device):
    arguments = 3 * drawn(4, 5, 16) + 2, drawn(16, seed=1), drawn(16, seed=2)
    weights = drawn(4, 5, 16, seed=3)

    def through(norm):
        def loss(*args):
            return (weights.astype(args[0].dtype) * norm(*args)).sum()

        return jax.grad(loss, (0, 1, 2))(*arguments)

    found = through(lambda *args: layer_norm(jnp.dtype("float32"), *args))
    with jax.enable_x64(True):
        arguments = [np.float64(each) for each in arguments]
        expected = through(by_hand)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * np.abs(other).max())


def test_a_norm_in_bfloat16_is_that_of_float32_rounded(device):
    x, scale, bias = drawn(4, 16), drawn(16, seed=1), drawn(16, seed=2)
    half, whole = (
        jax.vjp(lambda *args, to=to: layer_norm(jnp.dtype(to), *args), x, scale, bias)
        for to in ("bfloat16", "float32")
    )
    np.testing.assert_array_equal(half[0], whole[0].astype(jnp.bfloat16))
    gradient = jnp.asarray(drawn(4, 16, seed=3), jnp.bfloat16)
    for one, other in zip(half[1](gradient), whole[1](gradient.astype(jnp.float32)), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_array_equal(one, other)


def test_an_activation_is_applied_to_the_sum(device):
    x, plain = drawn(3, 8), Dense((16,), jnp.float32)
    params = plain.init(jax.random.key(0), x)
    params["params"]["bias"] = jnp.asarray(drawn(16, seed=1))
    activated = Dense((16,), jnp.float32, activation=gelu)

    def both(function):
        return jax.value_and_grad(lambda params: jnp.square(function(params)).sum())(params)

    found = both(lambda params: activated.apply(params, x))
    expected = both(lambda params: jax.nn.gelu(plain.apply(params, x), approximate=False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def test_what_the_activation_needs_is_computed_again():
    """Of a layer, the backward pass keeps the product and not what is made of it."""
    layer = Dense((64,), jnp.float32, activation=gelu)
    x = drawn(32, 8)
    params = layer.init(jax.random.key(0), x)
    _, backward = jax.vjp(lambda params: layer.apply(params, x), params)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward) if leaf.size >= 32 * 64]
    assert kept == [(32, 64)]


def test_blocks_are_scanned_except_on_gpus(device):
    x = drawn(2, 4, 16)
    module = Transformer(3, heads=2)
    params = module.init(jax.random.key(0), x)
    traced = str(jax.make_jaxpr(module.apply)(params, x))
    assert ("scan[" in traced) == (device != "gpu")
    np.testing.assert_allclose(
        module.apply(params, x), module.copy(unroll=1).apply(params, x), rtol=1e-5, atol=1e-6
    )
