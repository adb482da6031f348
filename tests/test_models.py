"""The encoder and the predictor: sizes, shapes, and equalities that the method relies on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jepa_jax.models import vit
from jepa_jax.models.positions import sincos_2d
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.transformer import Transformer
from jepa_jax.models.vit import Encoder

# Of how a network is computed, not what.
CHANGES = [
    {"remat": "dots"},
    {"remat": "full"},
    {"unroll": 2},
    {"unroll": 2, "remat": "full"},
]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def images(shape=(2, 16, 24, 3), seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def apply(module, params, *arguments):
    return module.apply(params, *arguments)


@pytest.fixture(scope="module")
def encoder() -> tuple[Encoder, dict]:
    module = Encoder(width=32, depth=2, heads=2, patch_size=8)
    return module, jax.jit(module.init)(jax.random.key(0), images())


@pytest.mark.parametrize(
    ("size", "patch", "millions"),
    # Parameters without positions and class token, from the papers' and the published code's sizes.
    [
        ("vit_ti", 16, 5.5),
        ("vit_s", 16, 21.6),
        ("vit_b", 16, 85.7),
        ("vit_l", 16, 303.1),
        ("vit_h", 14, 630.4),
        ("vit_g", 16, 1011.1),
    ],
)
def test_sizes(size: str, patch: int, millions: float):
    width, depth, heads, mlp_ratio = vit.SIZES[size]
    module = Encoder(width, depth, heads, patch, mlp_ratio)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert count(shapes) / 1e6 == pytest.approx(millions, abs=0.06)


def test_positions_by_hand():
    table = sincos_2d(8, 2, 3)
    row, column = 1, 2
    expected = [
        np.sin(column), np.sin(column / 100), np.cos(column), np.cos(column / 100),
        np.sin(row), np.sin(row / 100), np.cos(row), np.cos(row / 100),
    ]  # fmt: skip
    np.testing.assert_allclose(table[row * 3 + column], expected, rtol=1e-6)


def test_positions_need_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(6, 2, 2)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_rectangular_images_of_any_channels(channels: int):
    module = Encoder(width=16, depth=1, heads=2, patch_size=4)
    features, variables = jax.eval_shape(
        module.init_with_output, jax.random.key(0), images((2, 8, 12, channels))
    )
    assert features.shape == (2, 6, 16)
    assert variables["params"]["patch_embed"]["kernel"].shape == (16 * channels, 16)


def test_patches_are_cut_in_raster_order():
    picture = jnp.arange(4 * 6, dtype=jnp.float32).reshape(1, 4, 6, 1)
    patches = vit.patchify(picture, 2)
    np.testing.assert_array_equal(patches[0, 1], [2, 3, 8, 9])
    np.testing.assert_array_equal(patches[0, 3], [12, 13, 18, 19])


def test_all_patches_by_index_are_all_patches(encoder):
    module, params = encoder
    everything = jnp.tile(jnp.arange(6, dtype=jnp.int32)[None], (2, 1))
    np.testing.assert_allclose(
        apply(module, params, images(), everything), apply(module, params, images()), atol=1e-6
    )


@pytest.mark.parametrize("axes", [("data",), ("data", "tensor"), ("fsdp", "model")])
def test_an_encoder_serves_on_a_mesh_of_other_axes(encoder, axes: tuple[str, ...]):
    module, params = encoder
    auto = (AxisType.Auto,) * len(axes)
    with jax.set_mesh(jax.make_mesh((1,) * len(axes), axes, axis_types=auto)):
        found = jax.jit(module.apply)(params, images())
    np.testing.assert_allclose(found, apply(module, params, images()), atol=1e-6)


def test_parameters_are_float32_with_x64(encoder):
    module, _ = encoder
    init = jax.jit(module.init)
    expected = init(jax.random.key(0), images())
    with jax.enable_x64(True):
        found = init(jax.random.key(0), images())
    jax.tree.map(lambda *of: np.testing.assert_array_equal(*of, strict=True), found, expected)


def test_several_layers_are_initialised_as_wide_as_they_come_out(encoder):
    module, params = encoder
    shapes = jax.eval_shape(
        lambda key: module.init_with_output(key, images(), layers=2)[0], jax.random.key(0)
    )
    assert shapes.shape == module.apply(params, images(), layers=2).shape


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kernel": "flash"}, "attention 'flash': take one of auto, xla, fused"),
        ({"positions": "learnt"}, "positions 'learnt': take sincos or learned"),
        ({"heads": 3}, "a width of 32 does not divide into 3 heads"),
        ({"patch_size": 7}, "images of 16×24 do not divide into patches of 7"),
    ],
)
def test_what_an_encoder_can_not_be_is_told(change: dict, complaint: str):
    sizes = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8}
    with pytest.raises(ValueError, match=complaint):
        jax.eval_shape(Encoder(**sizes | change).init, jax.random.key(0), images())


def test_what_is_not_in_the_context_is_not_seen(encoder):
    module, params = encoder
    seen = jnp.asarray([[0, 4], [1, 2]], jnp.int32)
    before = apply(module, params, images(), seen)
    other = images(seed=1).at[:, 8:, 16:].set(0)  # patch 5, in neither context
    changed = images().at[:, 8:, 16:].set(other[:, 8:, 16:])
    np.testing.assert_array_equal(before, apply(module, params, changed, seen))


def test_order_of_the_context_does_not_matter(encoder):
    module, params = encoder
    one = apply(module, params, images(), jnp.asarray([[0, 4], [1, 2]], jnp.int32))
    other = apply(module, params, images(), jnp.asarray([[4, 0], [2, 1]], jnp.int32))
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("change", CHANGES)
def test_how_it_is_computed_changes_nothing(encoder, change: dict):
    module, params = encoder
    params = jax.tree.map(lambda leaf: 10 * leaf, params)  # with .02 for σ blocks add little
    # The square of what a norm gives is the same whatever comes before it, and has no gradient.
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 32)), jnp.float32)

    def gradient(variant: Encoder):
        return jax.jit(jax.grad(lambda p: (weights * variant.apply(p, images())).sum()))(params)

    expected, found = gradient(module), gradient(module.copy(**change))
    for (path, exact), other in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True
    ):
        assert (size := jnp.linalg.norm(exact)) > 0.1, path
        assert jnp.linalg.norm(other - exact) < 1e-5 * size, path


def test_drop_path_leaves_out_what_a_block_adds(encoder):
    module, params = encoder

    def features(keep):
        collection = {"transformer": {"blocks": {"keep": jnp.asarray(keep, jnp.float32)}}}
        return np.asarray(apply(module, params | {"drop_path": collection}, images()))

    keep = np.ones((2, 2, 2))  # blocks, attention and MLP, images
    whole = features(keep)
    np.testing.assert_array_equal(whole, apply(module, params, images()))
    keep[:, :, 1] = 0
    dropped = features(keep)
    np.testing.assert_array_equal(dropped[0], whole[0])
    shallow = jax.tree.map(jnp.copy, params["params"])
    shallow["transformer"]["blocks"] = jax.tree.map(
        jnp.zeros_like, shallow["transformer"]["blocks"]
    )
    np.testing.assert_allclose(
        dropped[1], apply(module, {"params": shallow}, images())[1], atol=1e-6
    )
    assert (dropped[1] != whole[1]).any()


@pytest.mark.parametrize("unroll", [1, 2])
def test_drop_path_leaves_what_blocks_add_up_as_it_is(encoder, unroll: int):
    module, params = encoder
    half = module.copy(dtype=jnp.bfloat16, residual=jnp.bfloat16, unroll=unroll)
    keep = {"drop_path": {"transformer": {"blocks": {"keep": jnp.ones((2, 2, 2))}}}}
    np.testing.assert_array_equal(
        apply(half, params | keep, images()), apply(half, params, images())
    )


def test_bfloat16_is_near_and_parameters_stay_float32(encoder):
    module, params = encoder
    params = jax.tree.map(lambda leaf: 10 * leaf, params)  # with .02 for σ blocks add little
    half = module.copy(dtype=jnp.bfloat16)
    features = apply(half, params, images())
    assert features.dtype == jnp.float32  # the final norm's
    exact = apply(module, params, images())
    assert 1e-3 < jnp.linalg.norm(features - exact) / jnp.linalg.norm(exact) < 0.02
    fresh = jax.eval_shape(half.init, jax.random.key(0), images())
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {jnp.dtype(jnp.float32)}


def test_initialisation_is_the_references():
    wide = Encoder(width=128, depth=3, heads=2, patch_size=8)
    params = jax.jit(wide.init)(jax.random.key(1), images())["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        match path[-1].key:
            case "kernel":
                assert float(leaf.std()) == pytest.approx(0.02, rel=0.03), path
                assert abs(float(leaf.mean())) < 1e-3
            case "bias":
                assert not leaf.any()
            case "scale":
                assert (leaf == 1).all()


def test_blocks_start_different(encoder):
    _, params = encoder
    kernel = params["params"]["transformer"]["blocks"]["mlp"]["hidden"]["kernel"]
    assert not (kernel[0] == kernel[1]).any()


@pytest.fixture(scope="module")
def predictor() -> tuple[Predictor, dict, tuple]:
    module = Predictor(width=16, depth=2, heads=2, output_width=32, grid=(2, 3))
    arguments = (
        jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 32)), jnp.float32),
        jnp.asarray([[0, 4], [1, 2]], jnp.int32),
        jnp.asarray([[[1, 2, 5], [3, 3, 3]], [[0, 3, 0], [4, 5, 4]]], jnp.int32),
        jnp.asarray([[3, 1], [2, 2]], jnp.int32),
    )
    params = jax.jit(module.init)(jax.random.key(0), *arguments)
    # With .02 for σ everything is nearly linear: make differences visible.
    return module, jax.tree.map(lambda leaf: 10 * leaf, params), arguments


def test_prediction_shape(predictor):
    module, params, arguments = predictor
    assert apply(module, params, *arguments).shape == (2, 2, 3, 32)


def test_padding_of_a_block_is_not_seen(predictor):
    module, params, (context, index, targets, length) = predictor
    before = apply(module, params, context, index, targets, length)
    after = apply(module, params, context, index, targets.at[0, 1, 1:].set(5), length)
    np.testing.assert_array_equal(before[0, 1, 0], after[0, 1, 0])


def test_a_block_does_not_see_another(predictor):
    module, params, (context, index, targets, length) = predictor
    before = apply(module, params, context, index, targets, length)
    after = apply(module, params, context, index, targets.at[0, 1].set(5), length)
    np.testing.assert_array_equal(before[0, 0], after[0, 0])
    assert (before[0, 1, 0] != after[0, 1, 0]).any()


def test_prediction_depends_on_context_and_position(predictor):
    module, params, (context, index, targets, length) = predictor
    before = apply(module, params, context, index, targets, length)
    assert (before != apply(module, params, context + 1, index, targets, length)).any()
    assert (before[0, 0, 0] != before[0, 0, 1]).any()


@pytest.mark.parametrize("change", CHANGES)
def test_how_predictions_are_computed_changes_nothing(predictor, change: dict):
    module, params, arguments = predictor

    def gradient(variant: Predictor):
        def loss(params):
            return jnp.square(variant.apply(params, *arguments)).mean()

        return jax.jit(jax.grad(loss))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradient(module),
        gradient(module.copy(**change)),
    )


def test_one_pass_of_one_block_is_what_a_pass_each_is(predictor):
    """The context's tokens have not yet seen a block's when those of the only block ask."""
    module, params, arguments = predictor
    shallow = jax.tree.map(lambda leaf: leaf, params)
    blocks = shallow["params"]["transformer"]["blocks"]
    shallow["params"]["transformer"]["blocks"] = jax.tree.map(lambda leaf: leaf[:1], blocks)
    one, each = (
        apply(module.copy(depth=1, one_pass=one_pass), shallow, *arguments)
        for one_pass in (True, False)
    )
    real = np.arange(3) < np.asarray(arguments[3])[..., None]
    np.testing.assert_allclose(one[real], each[real], atol=1e-5)


def test_one_pass_has_the_same_parameters_and_keeps_blocks_apart(predictor):
    module, params, (context, index, targets, length) = predictor
    module = module.copy(one_pass=True)
    shapes = jax.eval_shape(module.init, jax.random.key(0), context, index, targets, length)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    before = apply(module, params, context, index, targets, length)
    after = apply(module, params, context, index, targets.at[0, 1].set(5), length)
    np.testing.assert_array_equal(before[0, 0], after[0, 0])
    assert (before[0, 1, 0] != after[0, 1, 0]).any()
    padded = apply(module, params, context, index, targets.at[0, 1, 1:].set(5), length)
    np.testing.assert_array_equal(before[0, 1, 0], padded[0, 1, 0])


@pytest.mark.parametrize(("depth", "unroll"), [(1, 1), (3, 1), (3, 3)])
def test_the_last_tokens_alone_are_those_among_all(depth: int, unroll: int):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 16)), jnp.float32)
    length = jnp.asarray([5, 4], jnp.int32)
    module = Transformer(depth, heads=2, unroll=unroll)
    params = jax.tree.map(lambda leaf: 10 * leaf, module.init(jax.random.key(0), x, length))
    alone = module.apply(params, x, length, last=2)
    everyone = module.apply(params, x, length)
    # Small features are sums in which larger terms cancel: a rounding is one of the largest.
    scale = np.abs(everyone).max()
    np.testing.assert_allclose(alone / scale, everyone[:, -2:] / scale, rtol=0, atol=1e-6)
