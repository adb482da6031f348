"""Schedules against their formulas in float64; what is decayed; clipping; the moving average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax.optim import AdamW, Schedule, Schedules, decay_mask, moving_average

SCHEDULES = Schedules(
    steps=100_000,
    warmup_steps=1_000,
    learning_rate=(2e-4, 1e-3, 1e-6),
    weight_decay=(0.04, 0.4),
    momentum=(0.996, 1.0),
)


def params() -> dict:
    return {
        "blocks": {"kernel": jnp.full((2, 3, 3), 2.0), "bias": jnp.full((2, 3), 2.0)},
        "norm": {"scale": jnp.full(3, 2.0)},
        "mask_token": jnp.full((1, 1, 3), 2.0),
    }


def test_schedules_keep_their_digits_in_float32():
    step = np.arange(0, 100_000, 7)
    ours = SCHEDULES(jnp.asarray(step, jnp.int32))
    count = step + 1
    progress = (count - 1_000) / 99_000
    cosine = 1e-6 + (1e-3 - 1e-6) * (1 + np.cos(np.pi * progress)) / 2
    rate = np.where(count < 1_000, 2e-4 + 8e-4 * count / 1_000, cosine)
    decay = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * count / 100_000)) / 2
    np.testing.assert_allclose(ours.learning_rate, rate, rtol=1e-6)
    np.testing.assert_allclose(ours.weight_decay, decay, rtol=1e-6)
    np.testing.assert_allclose(ours.momentum, 0.996 + 0.004 * step / 100_000, rtol=1e-6)


def test_schedules_stay_at_their_ends():
    after = SCHEDULES(jnp.int32(200_000))
    np.testing.assert_allclose(after, (1e-6, 0.4, 1.0), rtol=1e-6)


def test_no_warmup_starts_at_the_peak():
    schedule = Schedules(100, 0, (2e-4, 1e-3, 0.0), (0.0, 0.0), (1.0, 1.0))
    assert float(schedule(jnp.int32(0)).learning_rate) == pytest.approx(1e-3, rel=1e-3)


def test_decay_is_by_name_not_by_axes():
    assert decay_mask(params()) == {
        "blocks": {"kernel": True, "bias": False},
        "norm": {"scale": False},
        "mask_token": True,
    }


def test_decay_alone_shrinks_what_is_decayed():
    optimizer, before = AdamW(), params()
    zero = jax.tree.map(jnp.zeros_like, before)
    schedule = Schedule(jnp.float32(0.1), jnp.float32(0.5), jnp.float32(1))
    after, _ = optimizer.update(zero, optimizer.init(before), before, schedule)
    np.testing.assert_allclose(after["blocks"]["kernel"], 2 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(after["mask_token"], 2 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(after["blocks"]["bias"], 2)
    np.testing.assert_array_equal(after["norm"]["scale"], 2)


def test_clipping_is_over_all_parameters():
    before = params()
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 7.0), before)
    schedule = Schedule(jnp.float32(0.1), jnp.float32(0), jnp.float32(1))
    optimizer = AdamW(clip_norm=1.0)
    _, state = optimizer.update(gradient, optimizer.init(before), before, schedule)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(state.mu)))
    assert norm == pytest.approx((1 - optimizer.b1) * 1.0, rel=1e-5)


def test_the_first_moment_may_be_kept_in_bfloat16():
    """Parameters move as with float32, up to the rounding: 2⁻⁹ a step, over 1 / (1 - b1) steps."""
    exact, small = AdamW(), AdamW(first_moment_dtype="bfloat16")
    schedule = Schedule(jnp.float32(0.01), jnp.float32(0), jnp.float32(1))
    results = []
    for optimizer in (exact, small):
        moved, state = params(), optimizer.init(params())
        update = jax.jit(optimizer.update)
        for step in range(100):
            noise = jax.random.normal(jax.random.key(step), (2, 3, 3))
            gradient = jax.tree.map(jnp.ones_like, moved)
            gradient["blocks"]["kernel"] = noise + 0.5
            moved, state = update(gradient, state, moved, schedule)
        results.append(moved["blocks"]["kernel"])
    assert {leaf.dtype for leaf in jax.tree.leaves(state.mu)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.nu)} == {jnp.dtype("float32")}
    travelled = float(jnp.abs(results[0] - 2.0).mean())
    assert travelled > 0.1
    np.testing.assert_allclose(results[1], results[0], atol=2**-9 / (1 - small.b1) * travelled)


def test_moving_average():
    mean = moving_average({"a": jnp.float32(1)}, {"a": jnp.float32(3)}, jnp.float32(0.75))
    assert float(mean["a"]) == 1.5


def test_a_schedule_takes_a_whole_number():
    assert SCHEDULES(5) == SCHEDULES(jnp.int32(5))


def test_what_is_decayed_in_a_tree_of_lists():
    mask = decay_mask([{"kernel": jnp.ones(2), "bias": [jnp.ones(2)]}, (jnp.ones(2),)])
    assert mask == [{"kernel": True, "bias": [False]}, (True,)]


def test_coarser_parameters_are_refused():
    with pytest.raises(ValueError, match="a/kernel is bfloat16: keep parameters in float32"):
        AdamW().init({"a": {"kernel": jnp.ones(2, jnp.bfloat16)}})
    with pytest.raises(ValueError, match="a is bfloat16"):
        moving_average({"a": jnp.ones(2, jnp.bfloat16)}, {"a": jnp.ones(2)}, jnp.float32(0.9))
