"""MAE's fine-tuning, piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax.evaluation import finetune
from jepa_jax.evaluation.finetune import Batch, Finetuning, Recipe
from jepa_jax.models.vit import Encoder
from jepa_jax.pretrained import Backbone

DEPTH = 2


def finetuning(**recipe) -> Finetuning:
    backbone = Backbone(Encoder(16, DEPTH, 2, patch_size=4), mean=(0.5,), std=(0.25,))
    options = {"epochs": 10.0, "warmup_epochs": 1.0, "batch_size": 64, "base_learning_rate": 0.02}
    return Finetuning(backbone, Recipe(**options | recipe), classes=3, steps_per_epoch=4)


@pytest.fixture(scope="module")
def encoder():
    module = finetuning().backbone.encoder
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Bright, dark and split images, with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 3
    patterns = np.stack([np.full((8, 8), 200), np.full((8, 8), 50), np.full((8, 8), 125)])
    patterns[2, :, 4:] = 255
    images = np.clip(patterns[labels] + rng.normal(0, 20, (64, 8, 8)), 0, 255)
    return Batch(jnp.asarray(images[..., None], jnp.uint8), jnp.asarray(labels, jnp.int32))


@pytest.fixture(scope="module")
def step():
    return jax.jit(finetune.train_step, static_argnums=0)


def test_learns_the_labels(encoder, batch, step):
    run = finetuning()
    state = finetune.init(run, encoder)
    losses = []
    for _ in range(run.steps):
        state, loss = step(run, state, batch)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(np.log(3), abs=0.01)  # the head starts as good as blind
    scores = finetune.logits(run, state.params, batch.images)
    assert np.mean(scores.argmax(-1) == batch.labels) > 0.95


def test_a_step_is_a_function_of_seed_and_step(encoder, batch, step):
    run = finetuning()
    state = finetune.init(run, encoder).replace(step=jnp.int32(5))
    first, again = (step(run, state, batch)[0].params for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    later = step(run, state.replace(step=jnp.int32(6)), batch)[0].params["head"]["output"]["bias"]
    assert (later != first["head"]["output"]["bias"]).any()


def test_layers_learn_slower_the_deeper_they_lie(encoder, batch, step):
    plain, decayed = (
        finetuning(layer_decay=decay, mixup=0.0, cutmix=0.0, drop_path=0.0, weight_decay=0.0)
        for decay in (1.0, 0.5)
    )
    state = finetune.init(plain, encoder)
    state = state.replace(step=jnp.int32(3))
    state.params["head"]["output"]["kernel"] += 0.1 * np.arange(3.0, dtype=np.float32)[None]
    moves = [
        jax.tree.map(lambda new, old: new - old, step(run, state, batch)[0].params, state.params)
        for run in (plain, decayed)
    ]

    def share(*path):
        whole, part = (jax.tree_util.tree_reduce(lambda t, k: t[k], path, m) for m in moves)
        return np.asarray(part / whole)

    np.testing.assert_allclose(share("head", "output", "bias"), 1, rtol=1e-3)
    np.testing.assert_allclose(share("encoder", "patch_embed", "bias"), 1 / 8, rtol=1e-3)
    blocks = share("encoder", "transformer", "blocks", "mlp", "output", "bias")
    np.testing.assert_allclose(blocks, np.array([[1 / 4], [1 / 2]]) * np.ones((1, 16)), rtol=1e-3)


def test_learning_rate_warms_up_and_falls():
    run = finetuning()
    rates = [float(run.learning_rate(jnp.int32(step))) for step in (0, 2, 4, 22, 40)]
    assert rates == pytest.approx([0, 0.0025, 0.005, 0.0025, 1e-6], rel=1e-3)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_targets_have_the_shares_of_what_is_seen(mixup, cutmix):
    # Image k is all k, so that its mean tells how much there is of which.
    images = jnp.arange(4.0)[:, None, None, None] * jnp.ones((4, 10, 12, 1))
    targets = jnp.eye(4)
    kinds = set()
    for seed in range(12):
        mixed, wanted = finetune.mix(jax.random.key(seed), images, targets, mixup, cutmix)
        np.testing.assert_allclose(wanted.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), wanted @ jnp.arange(4.0), atol=1e-5)
        kinds.add(bool(jnp.isin(mixed, jnp.arange(4.0)).all()))
    assert kinds == {True, False} if mixup and cutmix else {not mixup}


def test_drop_path_leaves_out_later_blocks_more_often():
    keep = np.asarray(finetune.kept_paths(jax.random.key(0), 3, 20_000, 0.4))
    np.testing.assert_allclose((keep == 0).mean((1, 2)), [0, 0.2, 0.4], atol=0.01)
    np.testing.assert_allclose(keep.mean((1, 2)), 1, atol=0.02)
    assert finetune.kept_paths(jax.random.key(0), 3, 8, 0.0) is None


def test_the_recipe_is_maes():
    assert Recipe().learning_rate == pytest.approx(4e-3)
    assert Recipe().layer_decay == 0.75
