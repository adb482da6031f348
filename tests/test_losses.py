"""Losses against plain numpy, and what padding must not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jepa_jax import losses

LOSSES = {"smooth_l1": losses.smooth_l1, "l2": losses.l2, "l1": losses.l1}


def example(seed: int = 0, shape=(3, 2, 5, 4)):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(scale=2, size=(2, *shape)).astype(np.float32)
    return prediction, target, rng.integers(1, shape[2] + 1, shape[:2]).astype(np.int32)


def plain(name: str, prediction, target, length) -> float:
    """The definition, image by image."""
    values = []
    for image in range(len(prediction)):
        blocks = [
            (prediction[image, i, :n] - target[image, i, :n]).astype(np.float64)
            for i, n in enumerate(length[image])
        ]
        if name == "l2":
            values.append(np.mean([(block**2).sum() for block in blocks]))
            continue
        d = np.abs(np.concatenate(blocks))
        values.append(np.mean(d if name == "l1" else np.where(d < 1, d**2 / 2, d - 0.5)))
    return float(np.mean(values))


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_equals_its_definition(name: str, seed: int):
    prediction, target, length = example(seed)
    value = LOSSES[name](jnp.asarray(prediction), jnp.asarray(target), length=jnp.asarray(length))
    assert float(value) == pytest.approx(plain(name, prediction, target, length), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_mask_and_length_agree(name: str):
    prediction, target, length = map(jnp.asarray, example())
    mask = jnp.arange(5, dtype=jnp.int32)[None, None] < length[..., None]
    by_mask = LOSSES[name](prediction, target, mask=mask)
    assert by_mask == LOSSES[name](prediction, target, length=length)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_has_no_effect_not_even_nan(name: str):
    prediction, target, length = example()
    padding = np.arange(5) >= length[..., None]
    spoiled = np.where(padding[..., None], np.nan, prediction)
    grad = jax.value_and_grad(LOSSES[name])
    value, gradient = grad(jnp.asarray(prediction), jnp.asarray(target), length=jnp.asarray(length))
    again, spoiled_gradient = grad(
        jnp.asarray(spoiled), jnp.asarray(target), length=jnp.asarray(length)
    )
    assert value == again
    np.testing.assert_array_equal(np.asarray(gradient)[padding], 0)
    np.testing.assert_array_equal(np.asarray(spoiled_gradient)[padding], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_mean_of_its_parts(name: str):
    prediction, target, length = map(jnp.asarray, example(shape=(4, 2, 5, 3)))
    whole = LOSSES[name](prediction, target, length=length)
    parts = [
        LOSSES[name](prediction[part], target[part], length=length[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert float(whole) == pytest.approx(float(sum(parts)) / 2, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_summed_in_float32(name: str):
    prediction = jnp.full((1, 1, 4096, 4), 0.5, jnp.bfloat16)
    value = LOSSES[name](prediction, jnp.zeros_like(prediction))
    expected = {"smooth_l1": 0.125, "l1": 0.5, "l2": 4096 * 4 * 0.25}[name]
    assert value.dtype == jnp.float32
    assert float(value) == expected


def test_smooth_l1_beta_is_where_it_turns_linear():
    prediction = jnp.asarray([[[0.5], [3.0]]])
    value = losses.smooth_l1(prediction, jnp.zeros((1, 2, 1)), beta=2.0)
    assert float(value) == pytest.approx((0.5 * 0.25 / 2 + 2.0) / 2)


def test_smooth_l1_gradient_is_finite_at_zero_distance():
    zeros = jnp.zeros((1, 1, 2, 2))
    assert not jax.grad(losses.smooth_l1)(zeros, zeros).any()


def test_an_empty_block_costs_nothing():
    prediction, target, _ = map(jnp.asarray, example())
    for loss in LOSSES.values():
        assert float(loss(prediction, target, length=jnp.zeros((3, 2), jnp.int32))) == 0


def test_normalized_targets_have_mean_zero_and_variance_one():
    features = jnp.asarray(np.random.default_rng(0).normal(3, 5, (7, 64)), jnp.float32)
    normal = np.asarray(losses.normalize_targets(features))
    np.testing.assert_allclose(normal.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(normal.var(-1), 1, rtol=1e-5)


def test_normalization_survives_constant_and_bfloat16_features():
    constant = losses.normalize_targets(jnp.full((2, 8), 3.0, jnp.bfloat16))
    assert constant.dtype == jnp.float32
    assert not constant.any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), shape=st.sampled_from([(7, 5), (2, 3, 4), (1, 1, 3)]))
def test_variance_and_covariance_equal_their_definitions(seed: int, shape: tuple[int, ...]):
    features = np.random.default_rng(seed).normal(2, 1.2, shape).astype(np.float32)
    rows = features.reshape(-1, shape[-1]).astype(np.float64)
    together = np.cov(rows.T) if len(rows) > 1 else np.zeros((shape[-1],) * 2)
    lacking = np.maximum(0, 1 - np.sqrt(np.diag(together) + 1e-4)).mean()
    others = (np.square(together).sum() - np.square(np.diag(together)).sum()) / shape[-1]
    np.testing.assert_allclose(losses.variance(jnp.asarray(features)), lacking, atol=1e-5)
    np.testing.assert_allclose(
        losses.covariance(jnp.asarray(features)), others, rtol=1e-4, atol=1e-6
    )


def test_features_that_vary_enough_and_apart_cost_nothing():
    features = 2 * jnp.asarray([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    for term in (losses.variance, losses.covariance):
        value, gradient = jax.value_and_grad(term)(features)
        assert value == 0
        assert not gradient.any()


def test_variance_has_a_gradient_where_features_have_collapsed():
    same = jnp.ones((4, 8)).at[0].add(1e-3)
    assert jnp.isfinite(gradient := jax.grad(losses.variance)(jnp.ones((4, 8)))).all()
    assert not gradient.any()
    gradient = jax.grad(losses.variance)(same)
    assert (gradient[0] < 0).all()  # further from the others
    assert (gradient[1:] > 0).all()


def test_wrong_shapes():
    with pytest.raises(ValueError, match="must both be"):
        losses.l1(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="must both be"):
        losses.l2(jnp.zeros((3, 4)), jnp.zeros((3, 4)))
    square = jnp.zeros((3, 3, 3, 2))
    with pytest.raises(ValueError, match="length must be"):
        losses.l1(square, square, length=jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match="mask must be"):
        losses.l1(square, square, mask=jnp.ones((3, 3), bool))
    with pytest.raises(ValueError, match="mask must be"):
        losses.l1(square, square, mask=jnp.full((3, 3, 3), 0.5))
    with pytest.raises(ValueError, match="beta"):
        losses.smooth_l1(square, square, beta=0.0)
    with pytest.raises(ValueError, match="not both"):
        losses.l1(
            jnp.zeros((1, 2, 3)),
            jnp.zeros((1, 2, 3)),
            length=jnp.ones(1, jnp.int32),
            mask=jnp.ones((1, 2), bool),
        )


@pytest.mark.parametrize("split", [P("data"), P(None, "data")])
@pytest.mark.parametrize("term", [losses.variance, losses.covariance])
def test_the_terms_take_features_that_several_devices_share(term, split: P):
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    features = jax.ShapeDtypeStruct((4, 4, 8), jnp.float32, sharding=NamedSharding(mesh, split))
    with jax.sharding.use_abstract_mesh(mesh):
        assert jax.eval_shape(term, features).sharding.spec == P()


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_the_terms_are_the_same_on_any_mesh(kind: AxisType):
    features = jnp.asarray(example()[0])
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(kind,))):
        split = jax.device_put(features, P("data"))
        found = [jax.jit(term)(split) for term in (losses.variance, losses.covariance)]
    np.testing.assert_allclose(found, [losses.variance(features), losses.covariance(features)])
