"""What blocks are made of: layer norm, whose gradient is written out, and products with weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax.models import layers, transformer
from jepa_jax.models.layers import FLOAT8, LAYER_NORM_EPS, Dense, cast, gelu, layer_norm
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


@pytest.mark.parametrize("activation", [None, gelu], ids=["alone", "gelu"])
def test_the_gradient_of_a_bias_is_summed_in_float32(device, activation):
    layer = Dense((8,), jnp.bfloat16, activation=activation)
    x, weights = drawn(2048, 4), drawn(2048, 8, seed=1)
    params = layer.init(jax.random.key(0), x)["params"]

    def loss(params, x, weights):
        return (layer.apply({"params": params}, x) * weights).sum()

    found = jax.grad(loss)(params, x, jnp.asarray(weights, jnp.bfloat16))["bias"]
    row = jax.vmap(jax.grad(loss), (None, 0, 0))
    of_rows = row(params, x[:, None], jnp.asarray(weights, jnp.bfloat16)[:, None])["bias"]
    expected = np.float64(of_rows).sum(0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


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


def test_a_product_in_float8_is_that_in_float32_but_for_rounding(device):
    """Of a hundred sums of 64 products, whose factors are off by up to a sixteenth each."""
    x, params = drawn(10, 64), {"kernel": 1e-5 * drawn(64, 10, seed=1), "bias": np.zeros(10, "f4")}
    params["kernel"][:, 3] = 0  # a column without a largest
    found = Dense((10,), FLOAT8).apply({"params": params}, x)
    exact = x @ params["kernel"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found[:, 3], 0)
    error = np.asarray(found, np.float32) - exact
    assert 0 < np.sqrt(np.square(error).mean() / np.square(exact).mean()) < 0.04


def test_heads_in_float8_have_a_range_each():
    x, kernel = drawn(5, 16), drawn(16, 2, 3, 4, seed=1)
    kernel[:, 1] *= 1e-4
    params = {"params": {"kernel": kernel, "bias": np.zeros((2, 3, 4), "f4")}}
    whole = Dense((2, 3, 4), FLOAT8).apply(params, x)
    params["params"]["kernel"] = kernel[:, 1:]
    params["params"]["bias"] = np.zeros((1, 3, 4), "f4")
    np.testing.assert_array_equal(whole[:, 1:], Dense((1, 3, 4), FLOAT8).apply(params, x))


def test_what_float8_cannot_hold_is_not_nan():
    largest = cast(jnp.asarray([1e9, -1e9, 448.0]), FLOAT8)
    np.testing.assert_array_equal(largest.astype(jnp.float32), [448, -448, 448])


def test_what_blocks_add_up_is_kept_in_half_the_memory():
    """What the backward pass keeps of the tokens between blocks."""
    x = drawn(2, 8, 32)
    module = Transformer(2, heads=2, dtype=jnp.bfloat16, unroll=2, residual=jnp.bfloat16)
    params = module.init(jax.random.key(0), x)

    def kept(module):
        _, backward = jax.vjp(lambda x: module.apply(params, x), jnp.asarray(x))
        return sum(leaf.nbytes for leaf in jax.tree.leaves(backward) if leaf.shape == x.shape)

    assert module.apply(params, x).dtype == jnp.float32
    assert kept(module) <= 0.6 * kept(module.copy(residual=jnp.float32))
