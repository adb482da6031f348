"""The doctor's numbers: what they are on features that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax import ijepa, losses
from jepa_jax.parallel.sharding import make_mesh
from jepa_jax.training.metrics import Measures, measure, numbers, part_of, spectrum
from tests.test_ijepa import SHAPE, batch, build


@pytest.fixture(scope="module", autouse=True)
def mesh():
    with jax.set_mesh(make_mesh((1, 1, 1), jax.devices()[:1])):
        yield


@pytest.fixture(scope="module")
def model() -> ijepa.IJEPA:
    return build()


@pytest.fixture(scope="module")
def state(model) -> ijepa.State:
    state = jax.jit(ijepa.init, static_argnums=(0, 2))(model, jax.random.key(0), SHAPE)
    return state.replace(target=jax.tree.map(lambda x: x + 0.25, state.target))


@pytest.fixture(scope="module")
def found(model, state) -> Measures:
    return jax.device_get(measure(model, state, batch()))


@pytest.fixture(scope="module")
def features(model, state) -> np.ndarray:
    encode = jax.jit(ijepa.encode, static_argnums=0)
    return np.asarray(encode(model, state.target, batch().images))


def real(masks) -> list[list[np.ndarray]]:
    """By image and block, the patches to predict."""
    rows = zip(masks.targets, masks.target_length, strict=True)
    return [
        [block[:n] for block, n in zip(blocks, lengths, strict=True)] for blocks, lengths in rows
    ]


def test_spread_of_features(found, features):
    normal = np.asarray(losses.normalize_targets(jnp.asarray(features)))
    np.testing.assert_allclose(found.feature_std, normal.std((0, 1)).mean(), rtol=1e-5)
    pooled = np.asarray(losses.normalize_targets(jnp.asarray(features.mean(1))))
    np.testing.assert_allclose(found.image_std, pooled.std(0).mean(), rtol=1e-4)


def test_cosines_are_means_over_pairs(found, features):
    def mean_of_pairs(x):
        unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return (unit @ unit.T)[np.triu_indices(len(x), 1)].mean()

    np.testing.assert_allclose(found.image_cosine, mean_of_pairs(features.mean(1)), rtol=1e-5)
    of_images = np.mean([mean_of_pairs(image) for image in features])
    np.testing.assert_allclose(found.patch_cosine, of_images, rtol=1e-5)


def test_the_predictor_is_held_against_means_and_the_nearest_context_patch(
    model, state, found, features
):
    masks = batch().masks
    targets = np.asarray(losses.normalize_targets(jnp.asarray(features)))
    blocks = real(masks)
    mean = np.concatenate([targets[i][np.concatenate(block)] for i, block in enumerate(blocks)])
    mean = mean.mean(0)

    def copied(image: int, patch: int) -> np.ndarray:
        context = masks.context[image]
        distance = (context // 4 - patch // 4) ** 2 + (context % 4 - patch % 4) ** 2
        return targets[image][context[distance.argmin()]]

    asked = targets[np.arange(len(features))[:, None, None], masks.targets]
    constant = np.broadcast_to(mean, asked.shape)
    nearest = np.stack(
        [[[copied(i, p) for p in block] for block in masks.targets[i]] for i in range(len(asked))]
    )
    others = (targets.sum(0) - targets) / (len(targets) - 1)
    at_place = others[np.arange(len(features))[:, None, None], masks.targets]
    baselines = (
        (constant, found.over_mean),
        (at_place, found.over_place),
        (nearest, found.over_copy),
    )
    reached = ijepa.loss(model, state.params, state.target, batch())
    for prediction, share in baselines:
        baseline = losses.smooth_l1(
            jnp.asarray(prediction), jnp.asarray(asked), length=masks.target_length
        )
        np.testing.assert_allclose(share, reached / baseline, rtol=1e-4)
    assert found.overlap == 0
    context = ijepa.context_features(model, state.params, batch())
    np.testing.assert_allclose(found.variance_loss, losses.variance(context), rtol=1e-5)
    np.testing.assert_allclose(found.covariance_loss, losses.covariance(context), rtol=1e-5)


def test_targets_in_the_context_are_seen(model, state):
    given = batch()
    targets = given.masks.targets
    assert given.masks.context.shape[1] <= targets.shape[2]
    context = jnp.sort(jnp.asarray(targets[:, 0, : given.masks.context.shape[1]]), axis=1)
    found = measure(model, state, given._replace(masks=given.masks._replace(context=context)))
    shares = [
        np.isin(np.concatenate(blocks), context[i]) for i, blocks in enumerate(real(given.masks))
    ]
    np.testing.assert_allclose(found.overlap, np.concatenate(shares).mean(), rtol=1e-6)
    assert found.overlap > 0.2


def test_target_scale_and_gap(model, state, found, monkeypatch):
    np.testing.assert_allclose(found.target_scale, 1, rtol=1e-3)
    leaves = [jax.tree.leaves(tree) for tree in (state.params["encoder"], state.target)]
    online, target = (np.concatenate([np.ravel(leaf) for leaf in tree]) for tree in leaves)
    gap = np.linalg.norm(online - target) / np.linalg.norm(target)
    np.testing.assert_allclose(found.target_gap, gap, rtol=1e-5)
    monkeypatch.setattr(losses, "normalize_targets", lambda features: 0.1 * features)
    anew = jax.jit(lambda state, batch: measure.__wrapped__(model, state, batch))
    bare = anew(state, batch())
    assert bare.target_scale < 0.5


def test_flat_patches_of_pixels_leave_the_scale_alone():
    model = build(targets="pixels", mean=(0.5,) * 3, std=(0.5,) * 3)
    model = dataclasses.replace(model, predictor=model.predictor.clone(output_width=4 * 4 * 3))
    state = jax.jit(ijepa.init, static_argnums=(0, 2))(model, jax.random.key(0), SHAPE)
    given = batch()
    black = given._replace(images=given.images.at[:, :8].set(0))  # the upper half
    found = measure(model, state, black)
    np.testing.assert_allclose(found.target_scale, 1, rtol=1e-3)


def test_the_spectrum_of_features_of_a_known_rank():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(64, 3)) @ np.linalg.qr(rng.normal(size=(32, 3)))[0].T
    few -= few.mean(0)
    found = spectrum(few @ few.T)
    assert 2.9 < found["rank"] < 3.001
    assert 2.5 < found["participation"] < 3.001
    singular = 10 * np.arange(1, 33) ** -0.75  # eigenvalues fall as 1 / rank^1.5
    basis = np.linalg.qr(rng.normal(size=(64, 32)))[0]
    assert abs(spectrum((basis * singular**2) @ basis.T)["alpha"] - 1.5) < 1e-3


def test_features_that_are_all_the_same_have_rank_1():
    found = spectrum(np.zeros((8, 8), np.float32))
    assert (found["rank"], found["participation"]) == (1, 1)


def test_what_is_not_finite_is_none(found):
    lost = numbers(found._replace(gram=np.full((8, 8), np.nan), over_mean=np.float32(np.inf)))
    assert lost["rank"] is lost["over_mean"] is None
    assert lost["image_std"] == found.image_std


def test_a_part_of_a_large_batch_is_taken_from_all_of_it():
    rows = jnp.arange(2048)
    for accumulate in (1, 4, 8, 16):
        assert part_of(rows, accumulate).tolist() == list(range(0, 2048, 8))


@pytest.mark.parametrize(
    ("size", "accumulate", "taken"),
    [
        *[(300, 1, 300), (1028, 1, 257), (1350, 1, 270), (1023, 1, 341), (2025, 1, 405)],
        *[(256, 32, 256), (1350, 27, 300), (2048, 2, 256), (1536, 3, 256), (96, 4, 96)],
    ],
)
def test_a_part_has_few_images_more_than_are_needed(size: int, accumulate: int, taken: int):
    found = part_of(jnp.arange(size), accumulate).tolist()
    assert found == sorted(set(found))
    assert len(found) == taken


def test_no_more_images_than_in_a_part_of_the_step_go_through_at_once(model, state, monkeypatch):
    state = state.replace(target=state.params["encoder"])  # whose features aren't all alike
    whole = jax.device_get(measure(model, state, batch()))
    model, at_once = build(accumulate=4), []
    encode = ijepa.encode

    def told(model, params, images, *rest):
        at_once.append(len(images))
        return encode(model, params, images, *rest)

    monkeypatch.setattr(ijepa, "encode", told)
    in_pieces = jax.device_get(measure(model, state, batch()))
    assert at_once == [2, 2]  # of 8; a loop is traced once
    for name, value in whole._asdict().items():
        np.testing.assert_allclose(getattr(in_pieces, name), value, rtol=1e-5, atol=1e-5)
