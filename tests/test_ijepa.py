"""The method: who learns, who follows, and that nothing depends on how it is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jepa_jax import ijepa, losses, masks
from jepa_jax.config import changed, defaults
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.transformer import EXACT
from jepa_jax.models.vit import Encoder
from jepa_jax.optim import AdamW, Schedules
from jepa_jax.training.setup import build_model

SHAPE = (16, 16, 3)


def build(**changes) -> ijepa.IJEPA:
    encoder = Encoder(width=32, depth=2, heads=2, patch_size=4)
    predictor = Predictor(width=16, depth=1, heads=2, output_width=32, grid=(4, 4))
    schedules = Schedules(100, 10, (1e-4, 1e-3, 0.0), (0.04, 0.4), (0.9, 1.0))
    return ijepa.IJEPA(encoder, predictor, AdamW(), schedules, **changes)


def batch(size: int = 8, seed: int = 0) -> ijepa.Batch:
    images = np.random.default_rng(seed).integers(0, 256, (size, *SHAPE), dtype=np.uint8)
    return ijepa.Batch(
        jnp.asarray(images), masks.sample(jax.random.key(seed), masks.MaskSpec((4, 4)), size)
    )


@pytest.fixture(scope="module")
def model() -> ijepa.IJEPA:
    return build()


@pytest.fixture(scope="module")
def state(model) -> ijepa.State:
    return jax.jit(ijepa.init, static_argnums=(0, 2))(model, jax.random.key(0), SHAPE)


@pytest.fixture(scope="module")
def stepped(model, state) -> tuple[ijepa.State, ijepa.Metrics]:
    return train_step(model, state, batch())


loss = jax.jit(ijepa.loss, static_argnums=0)
loss_and_gradient = jax.jit(ijepa.loss_and_gradient, static_argnums=0)
train_step = jax.jit(ijepa.train_step, static_argnums=0)
target_features = jax.jit(ijepa.target_features, static_argnums=0)


def test_the_target_starts_as_a_copy(state):
    jax.tree.map(np.testing.assert_array_equal, state.target, state.params["encoder"])


def test_the_target_is_the_moving_average_of_the_new_encoder(model, state, stepped):
    after, metrics = stepped
    momentum = float(metrics.momentum)
    jax.tree.map(
        lambda old, new, online: np.testing.assert_allclose(
            new, momentum * old + (1 - momentum) * online, atol=1e-7
        ),
        state.target,
        after.target,
        after.params["encoder"],
    )


def test_no_gradient_reaches_the_target(model, state):
    gradient = jax.jit(jax.grad(ijepa.loss, argnums=2), static_argnums=0)(
        model, state.params, state.target, batch()
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_every_parameter_learns(model, state):
    _, gradient = loss_and_gradient(model, state, batch())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert leaf.any(), jax.tree_util.keystr(path)


def test_training_lowers_the_loss(model, state):
    rows = []
    for _ in range(20):
        state, metrics = train_step(model, state, batch())
        rows.append(float(metrics.loss))
    assert rows[-1] < 0.8 * rows[0]


def test_accumulation_changes_nothing(model, state):
    value, gradient = loss_and_gradient(model, state, batch())
    parts_value, parts_gradient = loss_and_gradient(build(accumulate=4), state, batch())
    assert float(parts_value) == pytest.approx(float(value), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, parts_gradient)


def with_draws(size: int) -> ijepa.Batch:
    spec = masks.MaskSpec((4, 4))
    return batch(size)._replace(masks=masks.sample(jax.random.key(0), spec, size, draws=2))


def test_the_loss_of_several_draws_is_their_mean(model, state):
    both = with_draws(4)
    each = [
        loss(
            model,
            state.params,
            state.target,
            both._replace(masks=jax.tree.map(lambda x, i=i: x[:, i], both.masks)),
        )
        for i in range(2)
    ]
    together = loss(model, state.params, state.target, both)
    np.testing.assert_allclose(together, sum(each) / 2, rtol=1e-6)


def test_accumulation_changes_nothing_of_several_draws(model, state):
    together = loss_and_gradient(model, state, with_draws(8))
    in_parts = loss_and_gradient(build(accumulate=4), state, with_draws(8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), together, in_parts)


def test_variance_and_covariance_are_added_by_their_weights(model, state):
    regularized = build(variance_weight=0.1, covariance_weight=0.02)
    context = ijepa.context_features(model, state.params, batch())
    distance = loss(model, state.params, state.target, batch())
    terms = 0.1 * losses.variance(context) + 0.02 * losses.covariance(context)
    found = jax.jit(ijepa.objective, static_argnums=0)(
        regularized, state.params, state.target, batch()
    )
    np.testing.assert_allclose(found, (distance + terms, distance), rtol=1e-5)


def test_a_regularizer_keeps_features_apart(model, state):
    """Features of random images become alike when predicted; with weights they do not."""

    def spread_after(steps: int, model: ijepa.IJEPA) -> float:
        after = state
        for number in range(steps):
            after, _ = train_step(model, after, batch(seed=number))
        return float(losses.variance(ijepa.context_features(model, after.params, batch())))

    regularized = build(variance_weight=1.0, covariance_weight=0.1)
    assert spread_after(20, regularized) < 0.7 * spread_after(20, model)


def test_a_regularizer_in_parts_is_the_mean_over_parts(state):
    weights = {"variance_weight": 0.1, "covariance_weight": 0.02}
    found = loss_and_gradient(build(**weights, accumulate=2), state, batch())
    parts = [
        loss_and_gradient(build(**weights), state, jax.tree.map(lambda x, i=i: x[i::2], batch()))
        for i in range(2)
    ]
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_same_step_twice_is_bitwise_the_same(model, state, stepped):
    again = jax.jit(lambda *args: ijepa.train_step(model, *args))(state, batch())  # compiled anew
    jax.tree.map(np.testing.assert_array_equal, stepped, again)


def test_pixels_are_normalised_on_the_device(model):
    pixels = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), dtype=np.uint8)
    expected = (pixels / 255 - np.array(model.mean)) / np.array(model.std)
    np.testing.assert_allclose(ijepa.normalize(model, jnp.asarray(pixels)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["smooth_l1", "l2", "l1"])
def test_the_loss_is_the_one_of_that_name(state, name: str):
    model = build(loss=name)
    expected = getattr(losses, name)(
        ijepa.predict(model, state.params, batch()),
        target_features(model, state.target, batch()),
        length=batch().masks.target_length,
    )
    found = loss(model, state.params, state.target, batch())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"targets": "pixel"}, "targets 'pixel': take one of features, pixels"),
        ({"loss": "l3"}, "loss 'l3': take one of smooth_l1, l2, l1"),
    ],
)
def test_what_a_method_can_not_be_is_told(change: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        build(**change)


def test_a_predictor_of_another_grid_is_refused():
    model = build()
    turned = dataclasses.replace(model, predictor=model.predictor.clone(grid=(4, 6)))
    with pytest.raises(ValueError, match=r"a grid of \(6, 4\) patches, the predictor of \(4, 6\)"):
        jax.eval_shape(lambda key: ijepa.init(turned, key, (24, 16, 3)), jax.random.key(0))


def test_pixel_targets_are_the_normalised_patches_and_train():
    model = build(targets="pixels")
    model = dataclasses.replace(model, predictor=model.predictor.clone(output_width=4 * 4 * 3))
    state = jax.jit(ijepa.init, static_argnums=(0, 2))(model, jax.random.key(0), SHAPE)
    images, masks = batch()
    targets = ijepa.target_features(model, state.target, batch())
    row, column = divmod(int(masks.targets[0, 1, 2]), 4)
    scaled = np.asarray(images[0], np.float64) / 255
    scaled = (scaled - np.array(model.mean)) / np.array(model.std)
    patch = scaled[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    expected = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-5)
    np.testing.assert_allclose(targets[0, 1, 2], expected.ravel(), atol=1e-5)
    ramp = np.broadcast_to(np.arange(0, 256, 16, dtype=np.uint8)[:, None], images.shape)
    smooth = ijepa.Batch(jnp.asarray(ramp), masks)  # what is random can't be predicted
    first = loss(model, state.params, state.target, smooth)
    for _ in range(40):
        state, metrics = train_step(model, state, smooth)
    assert metrics.loss < 0.5 * first


def test_a_target_encoder_in_float8(model, state):
    """Its features are nearly the same, and so is the gradient."""
    coarse = dataclasses.replace(model, target_dtype=jnp.float8_e4m3fn)
    features, gradients = (
        [jax.tree.leaves(function(each)) for each in (model, coarse)]
        for function in (
            lambda each: target_features(each, state.target, batch()),
            lambda each: loss_and_gradient(each, state, batch())[1],
        )
    )
    for (exact, found), least, most in ((features, 1e-3, 0.03), (gradients, 1e-4, 0.02)):
        off = optax.tree.norm(jax.tree.map(jnp.subtract, found, exact))
        assert least < off / optax.tree.norm(exact) < most


def test_a_recipe_says_what_is_coarser():
    """Precision goes to all three networks, and what is loaded afterwards has none of it."""
    config = changed(
        defaults(), {"model.residual": "bfloat16", "model.target_dtype": "float8_e4m3fn"}
    )
    model = build_model(config, steps_per_epoch=1)
    assert model.encoder.residual == model.predictor.residual == jnp.bfloat16
    assert model.target_dtype == jnp.float8_e4m3fn
    exact = build_model(defaults(), steps_per_epoch=1).encoder.clone(dtype=jnp.float32)
    assert model.encoder.clone(**EXACT) == exact


@pytest.mark.parametrize(
    ("part", "function"), [("encoder", ijepa.context_features), ("predictor", ijepa.predict)]
)
def test_what_a_network_adds_up_may_be_coarser(model, state, part: str, function):
    network = getattr(model, part).clone(residual=jnp.bfloat16)
    coarse = dataclasses.replace(model, **{part: network})
    exact, found = (
        jax.jit(function, static_argnums=0)(each, state.params, batch()) for each in (model, coarse)
    )
    assert 1e-4 < optax.tree.norm(found - exact) / optax.tree.norm(exact) < 0.02


def test_padding_of_targets_does_not_reach_the_loss(model, state):
    whole = batch()
    drawn = whole.masks
    padding = np.arange(drawn.targets.shape[2]) >= drawn.target_length[..., None]
    assert padding.any()
    moved = drawn._replace(targets=np.where(padding, 15, drawn.targets))
    before = loss(model, state.params, state.target, whole)
    after = loss(model, state.params, state.target, whole._replace(masks=moved))
    assert float(before) == float(after)


def test_an_unsound_step_changes_nothing_but_its_number(model, state):
    images = np.array(batch().images, np.float32)
    images[3, 0, 0, 0] = np.nan
    after, metrics = train_step(model, state, batch()._replace(images=images))
    for part in ("params", "target", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, part), getattr(state, part))
    assert (int(after.step), int(metrics.skipped), int(metrics.skipped_in_a_row)) == (1, 1, 1)
    after, metrics = train_step(model, after, batch())
    assert (int(after.step), int(metrics.skipped), int(metrics.skipped_in_a_row)) == (2, 1, 0)


def test_a_spike_is_left_out_once_the_usual_is_known(state):
    model = build(spike=2.0)
    known = state.guard._replace(usual_norm=jnp.float32(1.0))
    for count, usual, sound in ((99, 1.0, True), (100, 1.0, False), (100, 2.0, True)):
        past = state.replace(
            opt_state=state.opt_state._replace(count=jnp.int32(count)),
            guard=known._replace(usual_norm=jnp.float32(usual)),
        )
        assert bool(ijepa.is_sound(model, past, jnp.float32(1), jnp.float32(3))) == sound


def test_the_usual_norm_follows_the_gradient(stepped, model):
    after, metrics = stepped
    assert float(after.guard.usual_norm) == float(metrics.gradient_norm)
    again, second = train_step(model, after, batch(seed=1))
    expected = 0.99 * float(metrics.gradient_norm) + 0.01 * float(second.gradient_norm)
    assert float(again.guard.usual_norm) == pytest.approx(expected)
