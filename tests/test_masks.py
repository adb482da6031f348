"""Masks: what is promised of every draw, and what both styles do on average."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jepa_jax import masks
from jepa_jax.masks import MaskSpec, sample

GOLDEN = pathlib.Path(__file__).parent / "fixtures" / "mask_statistics_14x14.npz"
DRAWS = 20_000


def key(seed: int = 0) -> jax.Array:
    return jax.random.key(seed)


def check(spec: MaskSpec, drawn: masks.Masks, batch_size: int) -> None:
    """Everything that holds of any masks."""
    context, targets, length = drawn
    assert context.shape == (batch_size, spec.num_context)
    assert targets.shape == (batch_size, spec.num_targets, spec.block_length)
    assert {array.dtype for array in drawn} == {np.dtype(np.int32)}
    assert (np.diff(context, axis=1) > 0).all()  # ascending, hence none twice
    for patches in (context, targets):
        assert patches.min() >= 0
        assert patches.max() < spec.num_patches
    assert length.min() >= 1
    assert length.max() <= spec.block_length
    for image in range(batch_size):
        for block, count in zip(targets[image], length[image], strict=True):
            assert len(set(block[:count])) == count
            assert not set(context[image]) & set(block[:count])


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(7, 20),
    columns=st.integers(7, 20),
    style=st.sampled_from(list(masks.STYLES)),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_grid_and_style(rows: int, columns: int, style: str, seed: int):
    spec = MaskSpec((rows, columns), style)
    check(spec, sample(key(seed), spec, 16), 16)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [((4, 4), 4), ((7, 7), 12), ((8, 8), 16), ((14, 14), 48), ((16, 16), 64), ((28, 28), 192)],
)
def test_default_context_is_a_quarter(grid: tuple[int, int], expected: int):
    assert MaskSpec(grid).num_context == expected


def test_targets_are_rectangles_and_padded_with_their_first_patch():
    spec = MaskSpec((14, 14))
    drawn = sample(key(), spec, 32)
    for block, count in zip(
        drawn.targets.reshape(128, -1), drawn.target_length.ravel(), strict=True
    ):
        row, column = np.divmod(block[:count], 14)
        assert np.ptp(row) * np.ptp(column) + np.ptp(row) + np.ptp(column) + 1 == count
        assert (block[count:] == block[0]).all()


def test_parts_of_a_batch_are_the_batch():
    spec = MaskSpec((7, 7))
    whole = sample(key(3), spec, 12)
    parts = [sample(key(3), spec, 4, start) for start in (0, 4, 8)]
    for field, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(field, np.concatenate(pieces))


def test_several_draws_are_those_of_more_images():
    spec = MaskSpec((7, 7))
    many, draws = sample(key(3), spec, 6), sample(key(3), spec, 1, start=1, draws=3)
    for whole, part in zip(many, draws, strict=True):
        np.testing.assert_array_equal(whole[3:], part[0])


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_parts_are_those_of_the_whole_with_any_generator(kind: str):
    spec, key = MaskSpec((6, 6)), jax.random.key(3, impl=kind)
    whole, part = sample(key, spec, 4), sample(key, spec, 2, start=2)
    for one, other in zip(whole, part, strict=True):
        np.testing.assert_array_equal(one[2:], other)


def test_a_spec_may_be_made_while_a_function_is_traced():
    spec = {"grid": (5, 7), "num_targets": 2}  # of which there is no survey yet
    traced = jax.eval_shape(lambda x: x[: MaskSpec(**spec).num_context], jnp.zeros(35))
    assert traced.shape == (MaskSpec(**spec).num_context,)


def test_masks_are_not_drawn_while_a_function_is_traced():
    with pytest.raises(ValueError, match="call sample outside of jit"):
        jax.eval_shape(lambda key: sample(key, MaskSpec((6, 6)), 2), jax.random.key(0))


@pytest.mark.parametrize("style", ["paper", "random", "rasterized"])
def test_draws_are_the_same_with_x64(style: str):
    spec = MaskSpec((6, 6), style)
    expected = sample(key(3), spec, 2)
    masks.survey.cache_clear()
    with jax.enable_x64(True):
        drawn = sample(key(3), spec, 2)
    for array, wanted in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(array, wanted, strict=True)


def test_keys_and_positions_differ():
    spec = MaskSpec((14, 14))
    first, second = sample(key(0), spec, 8), sample(key(1), spec, 8)
    assert not (first.context == second.context).all()
    assert len({context.tobytes() for context in first.context}) == 8


def test_paper_reaches_every_patch():
    spec = MaskSpec((14, 14))
    drawn = sample(key(), spec, 4000)
    context = np.bincount(drawn.context.ravel(), minlength=196)
    real = np.arange(spec.block_length) < drawn.target_length[..., None]
    target = np.bincount(drawn.targets[real], minlength=196)
    assert context.min() > 0
    assert target.min() > 0


def test_paper_draws_sizes_for_each_image():
    drawn = sample(key(), MaskSpec((14, 14)), 64)
    assert len(np.unique(drawn.target_length[:, 0])) > 3


def test_paper_scale_and_aspect_are_independent():
    """No correlation between a block's area and its shape, unlike in the reference."""

    def correlation(style: str) -> float:
        sizes = masks._target_sizes(MaskSpec((64, 64), style)).astype(float)
        return stats.spearmanr(sizes.prod(1), sizes[:, 0] / sizes[:, 1]).statistic

    assert abs(correlation("paper")) < 0.02
    assert correlation("reference") > 0.9


def test_context_is_kept_at_random():
    """The top and the bottom third of the grid are seen equally often."""
    context = sample(key(), MaskSpec((14, 14)), 2000).context
    top, bottom = (context < 70).mean(), (context >= 126).mean()
    assert top == pytest.approx(bottom, abs=0.01)


@pytest.fixture(scope="module")
def reference_draws() -> tuple[MaskSpec, masks.Draw]:
    """One image a batch, so that nothing is cut; the golden draws keep more than 10 patches."""
    spec = MaskSpec((14, 14), "reference", num_context=11)
    zero = jnp.int32(0)
    draw = jax.jit(jax.vmap(lambda k: masks.draw(k, zero, zero, spec)))
    return spec, jax.tree.map(np.asarray, draw(jax.random.split(key(7), DRAWS)))


def test_reference_context_coverage(reference_draws):
    _, drawn = reference_draws
    coverage = drawn.context.mean(0).reshape(14, 14)
    np.testing.assert_allclose(coverage, np.load(GOLDEN)["context_coverage"], atol=0.02)


def test_reference_target_coverage(reference_draws):
    spec, drawn = reference_draws
    real = np.arange(spec.block_length) < drawn.target_length[..., None]
    coverage = np.bincount(drawn.targets[real], minlength=196).reshape(14, 14) / (4 * DRAWS)
    np.testing.assert_allclose(coverage, np.load(GOLDEN)["target_coverage"], atol=0.02)
    assert coverage[-1].max() == coverage[:, -1].max() == 0  # the published code never gets there


def test_reference_block_sizes(reference_draws):
    _, drawn = reference_draws
    golden = np.load(GOLDEN)["block_size_histogram"]
    first, last = drawn.targets[:, 0, 0], drawn.targets[:, 0].max(1)
    height, width = (last // 14 - first // 14 + 1), (last % 14 - first % 14 + 1)
    ours = np.zeros_like(golden)
    np.add.at(ours, (height, width), 1)
    possible = (ours + golden) > 0
    assert (ours[possible] > 0).all()
    assert (golden[possible] > 0).all()
    both = np.stack([ours[possible], golden[possible]])
    assert stats.chi2_contingency(both).pvalue > 0.01


def test_reference_context_lengths(reference_draws):
    _, drawn = reference_draws
    golden = np.load(GOLDEN)["context_length_histogram"]
    ours = np.bincount(drawn.context.sum(1), minlength=len(golden))
    distance = np.abs(np.cumsum(ours) / ours.sum() - np.cumsum(golden) / golden.sum()).max()
    assert distance < 1.63 * np.sqrt(2 / DRAWS)  # Kolmogorov-Smirnov, 1 %


def test_reference_has_one_size_a_batch_and_cuts_in_raster_order():
    spec = MaskSpec((14, 14), "reference")
    drawn = sample(key(), spec, 32)
    assert len(np.unique(drawn.target_length)) == 1
    assert (drawn.context < 70).mean() > 2 * (drawn.context >= 126).mean()


def test_block_and_random_see_the_rest():
    for style in ("block", "random"):
        spec = MaskSpec((14, 14), style)
        drawn = sample(key(), spec, 16)
        check(spec, drawn, 16)
        assert spec.num_targets == 1
        assert drawn.target_length.mean() == pytest.approx(0.6 * 196, rel=0.03)
    scattered = np.sort(drawn.targets[0, 0, :100])
    assert np.diff(scattered).max() > 1


def test_rasterized_has_a_quarter_for_each_of_context_and_targets():
    spec = MaskSpec((7, 8), "rasterized")
    assert (spec.num_context, spec.num_targets, spec.block_length) == (12, 3, 16)
    drawn = sample(key(), spec, 64)
    check(spec, drawn, 64)
    quarters = set()
    for context, targets, length in zip(*drawn, strict=True):
        parts = [set(patches[:n].tolist()) for patches, n in zip(targets, length, strict=True)]
        (seen,) = {(patch // 8 >= 3, patch % 8 >= 4) for patch in context.tolist()}
        quarters.add(seen)
        rest = {p for p in range(56) if (p // 8 >= 3, p % 8 >= 4) != seen}
        assert set.union(*parts) == rest
        assert sum(map(len, parts)) == len(rest)
    assert len(quarters) == 4


def test_context_choice_decides_which_patches_are_kept():
    def spread(choice: str) -> float:  # mean distance of a context's patches from their middle
        spec = MaskSpec((14, 14), context_choice=choice)
        context = sample(key(), spec, 64).context
        place = np.stack(np.divmod(context, 14), axis=-1).astype(float)
        return np.linalg.norm(place - place.mean(1, keepdims=True), axis=-1).mean()

    assert spread("block") < 0.75 * spread("random")
    first = sample(key(), MaskSpec((14, 14), context_choice="raster"), 64).context
    assert (first < 70).mean() > 2 * (first >= 126).mean()


def test_impossible_context_names_the_largest_that_works():
    with pytest.raises(ValueError, match="largest possible is") as caught:
        MaskSpec((14, 14), num_context=190)
    largest = int(str(caught.value).split("largest possible is ")[1].split(",")[0])
    spec = MaskSpec((14, 14), num_context=largest)
    check(spec, sample(key(), spec, 64), 64)
    with pytest.raises(ValueError, match="largest possible"):
        MaskSpec((14, 14), num_context=largest + 1)


def test_grid_too_small():
    with pytest.raises(ValueError, match="too small"):
        MaskSpec((1, 1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"style": "papper"}, "none of paper"),
        ({"num_targets": 0}, "num_targets=0"),
        ({"num_context": 0}, "num_context=0"),
        ({"target_scale": (0.5, 0.2)}, "target_scale"),
        ({"context_scale": (0.9, 1.1)}, "context_scale"),
        ({"target_aspect": (0.0, 1.0)}, "target_aspect"),
        ({"target_aspect": (1.0, np.inf)}, "target_aspect"),
        ({"context_choice": "bock"}, "none of random, raster, block"),
        ({"style": "rasterized", "num_targets": 4}, "takes no num_targets=4: leave it at 3"),
        ({"style": "rasterized", "target_scale": (0.1, 0.1)}, "takes no target_scale"),
        ({"style": "rasterized", "context_scale": (0.8, 1.0)}, "takes no context_scale"),
        ({"style": "random", "target_aspect": (1.0, 1.0)}, "'random' takes no target_aspect"),
        ({"style": "rasterized", "grid": (1, 14)}, "has no quarters"),
        ({"grid": (96 / 16, 96 / 16)}, r"grid=\(6.0, 6.0\): give whole numbers"),
        ({"grid": (14,)}, r"grid=\(14,\): give two numbers"),
        ({"grid": 14}, "grid=14: give two numbers"),
        ({"num_context": 48.0}, "num_context=48.0: give whole numbers"),
        ({"num_targets": 4.0}, "num_targets=4.0: give whole numbers"),
        ({"num_targets": [2, 3]}, r"num_targets=\[2, 3\]: give whole numbers"),
        ({"target_scale": 0.2}, "target_scale=0.2: give two numbers"),
        ({"target_scale": ("a", "b")}, "target_scale.*: give two numbers"),
        ({"target_scale": (0.1, None)}, "target_scale.*: give two numbers"),
        ({"target_scale": [[0.1], [0.2, 0.3]]}, "target_scale.*: give two numbers"),
    ],
)
def test_wrong_settings(setting: dict, message: str):
    with pytest.raises(ValueError, match=message):
        MaskSpec(**{"grid": (14, 14)} | setting)


def test_lists_and_arrays_do_as_well():
    spec = MaskSpec(np.array([6, 6]), target_scale=[0.15, 0.2])
    assert spec == MaskSpec((6, 6))
    assert sample(key(), spec, 2).context.shape == (2, spec.num_context)


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="draws=0"):
        sample(key(), MaskSpec((6, 6)), 2, draws=0)


def test_borrowing_masks_or_losses_pulls_in_jax_only():
    code = (
        "import sys, jepa_jax.losses, jepa_jax.masks;"
        "print(*({m.split('.')[0] for m in sys.modules}"
        " & {'flax', 'optax', 'ml_collections', 'orbax', 'PIL', 'matplotlib'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
