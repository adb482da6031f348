import io
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.colour import Colours
from jepa_jax.data.decoding import decode
from jepa_jax.data.resizing import RESIZERS
from jepa_jax.data.sources import Example
from jepa_jax.data.transforms import EvalView, TrainView, centre_box, crop_box
from jepa_jax.errors import UserError
from tests.pictures import POSSIBLE, saved

SCALE, ASPECT = (0.3, 1.0), (3 / 4, 4 / 3)


def noise(height, width, channels, seed=0):
    shape = (height, width, channels)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Example(image, None, f"noise[{seed}]")


def jpeg(height, width):
    file = io.BytesIO()
    small = Image.fromarray(noise(height // 8 + 1, width // 8 + 1, 3).image)
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, "jpeg")
    return Example(file.getvalue(), None, "a.jpg")


def rng(seed):
    return np.random.default_rng(seed)


# Boxes

SIDES = st.integers(1, 300)


@settings(max_examples=200, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    aspect=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_inside_the_image(height, width, scale, aspect, seed):
    left, top, right, bottom = crop_box(rng(seed), height, width, scale, aspect)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_boxes_are_spread_as_asked():
    draws = rng(0)
    boxes = np.array([crop_box(draws, 1000, 1000, (0.1, 0.5), (0.5, 2)) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    h, w = bottom - top, right - left
    area, aspect = h * w / 1e6, np.log2(w / h)
    for values, low, high in [(area, 0.1, 0.5), (aspect, -1, 1)]:  # uniform on low..high
        assert abs(values.min() - low) < 0.02
        assert abs(values.max() - high) < 0.02
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 2000)
    for start, free in [(top, 1000 - h), (left, 1000 - w)]:
        assert abs(np.mean(start / free) - 0.5) < 5 / math.sqrt(12 * 2000)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(9, 1000, (494, 0, 506, 9)), (1000, 9, (0, 494, 9, 506)), (1, 1, (0, 0, 1, 1))],
)
def test_box_of_an_image_that_is_too_long(height, width, box):
    assert crop_box(rng(0), height, width, (0.9, 1.0), ASPECT) == box


@settings(max_examples=200, deadline=None)
@given(*[st.integers(1, 5000)] * 4, st.floats(0.1, 1))
def test_centre_boxes_lie_in_the_centre(height, width, new_height, new_width, share):
    left, top, right, bottom = centre_box(height, width, (new_height, new_width), share)
    assert left >= 0 <= top
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    proportions = (bottom - top) * new_width
    assert proportions == pytest.approx((right - left) * new_height)
    assert max((bottom - top) / height, (right - left) / width) == pytest.approx(share)


# Training


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_train_view_is_pillows_resize_of_the_box(channels, interpolation):
    example = noise(50, 60, channels)
    box = crop_box(rng(3), 50, 60, SCALE, ASPECT)
    image = Image.fromarray(example.image.squeeze())
    expected = image.resize((20, 24), Image.Resampling[interpolation.upper()], box)
    pixels = TrainView((24, 20), channels, interpolation=interpolation)(example, rng(3))
    np.testing.assert_array_equal(pixels, np.asarray(expected).reshape(24, 20, channels))


def test_box_does_not_depend_on_the_size_that_a_jpeg_is_decoded_at():
    example = jpeg(300, 400)
    box = crop_box(rng(5), 300, 400, SCALE, ASPECT)
    whole = Image.fromarray(decode(example, 3))
    for size in (200, 90, 40, 20):
        expected = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box))
        pixels = TrainView((size, size), 3)(example, rng(5))
        assert np.abs(pixels.astype(int) - expected).mean() < 2


def test_flip_mirrors_half_of_the_images():
    example, mirrored = noise(20, 20, 3), 0
    for seed in range(40):
        plain = TrainView((8, 6), 3)(example, rng(seed))
        flipped = TrainView((8, 6), 3, flip=True)(example, rng(seed))
        is_mirrored = not np.array_equal(flipped, plain)
        np.testing.assert_array_equal(flipped, plain[:, ::-1] if is_mirrored else plain)
        mirrored += is_mirrored
    assert 8 < mirrored < 32


@pytest.mark.parametrize("seed", range(8))
def test_no_option_changes_what_another_one_does(seed):
    example, colours = noise(30, 30, 3), Colours(jitter=1.0, greyscale=0.2, blur=0.5)
    mirrored = TrainView((8, 8), 3, flip=True)(example, rng(seed))
    both = TrainView((8, 8), 3, flip=True, colours=colours)(example, rng(seed))
    crop_box(same := rng(seed), 30, 30, SCALE, ASPECT)
    same.random()
    np.testing.assert_array_equal(both, colours(mirrored, same))


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(1, 5), st.floats(0.1, 1))
def test_views_have_the_size_asked_for(old, new, channels, share):
    example = Example(np.full((*old, channels), 77, np.uint8), None, "flat")
    train = TrainView(new, channels)(example, rng(0))
    evaluation = EvalView(new, channels, share)(example)
    assert train.shape == evaluation.shape == (*new, channels)
    assert train.dtype == evaluation.dtype == np.uint8
    assert (train == 77).all()
    assert (evaluation == 77).all()


LONG = st.integers(1, 60) | st.integers(1, 4000)


@settings(max_examples=40, deadline=None)
@given(
    file=st.sampled_from(POSSIBLE),
    size=st.tuples(LONG, LONG).map(lambda size: (size[0], min(size[1], 3000))),
    new=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    resizer=st.sampled_from(list(RESIZERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_views_of_files_of_any_mode_and_size(file, size, new, resizer, seed):
    mode, kind = file
    # Large WebPs take long to make.
    size = tuple(min(side, 300) for side in size) if kind == "webp" else size
    example = saved(mode, size, kind)
    views = [
        lambda: TrainView(new, 3, resizer=resizer, flip=True)(example, rng(seed)),
        lambda: EvalView(new, 3, resizer=resizer)(example),
    ]
    for view in views:
        try:
            pixels = view()
        except UserError:
            assert mode in ("LAB", "I", "F")  # which not every viewer shows either
        else:
            assert (pixels.shape, pixels.dtype) == ((*new, 3), np.uint8)


def test_all_of_it_at_once_is_a_function_of_the_generator():
    view = TrainView((32, 48), 3, flip=True, colours=Colours(0.5, 0.2, 0.5))
    images = [view(jpeg(90, 120), rng(seed)) for seed in (0, 0, 1)]
    assert images[0].shape == (32, 48, 3)
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


# Evaluation


@pytest.mark.parametrize(
    ("old", "size", "share", "resized"),
    [
        ((64, 96), (28, 28), 0.875, (32, 48)),
        ((96, 64), (28, 28), 0.875, (48, 32)),
        ((64, 96), (16, 48), 1.0, (32, 48)),
        ((60, 48), (60, 30), 0.75, (80, 64)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_eval_view_is_resize_then_crop(old, size, share, resized, interpolation):
    example = noise(*old, 3)
    image = Image.fromarray(example.image)
    whole = image.resize(resized[::-1], Image.Resampling[interpolation.upper()])
    top, left = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    expected = np.asarray(whole)[top : top + size[0], left : left + size[1]]
    difference = EvalView(size, 3, share, interpolation)(example).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_eval_view_of_the_right_size_is_the_image_itself():
    example = noise(28, 20, 1)
    assert EvalView((28, 20), 1, 1.0)(example) is example.image


def test_eval_view_of_a_very_long_image_is_cheap():
    assert EvalView((224, 224), 1)(noise(1, 100_000, 1)).shape == (224, 224, 1)


# Both


def test_views_are_those_of_the_config():
    data = ConfigDict(defaults().data)
    data.update(image_size=[32, 48], crop_scale=[0.5, 1.0], eval_crop=0.9, flip=True)
    data.update(interpolation="bicubic", colour_jitter=0.4, greyscale=0.2, blur=0.5)
    colours = Colours(jitter=0.4, greyscale=0.2, blur=0.5)
    train = TrainView((32, 48), 3, (0.5, 1.0), ASPECT, "bicubic", flip=True, colours=colours)
    assert TrainView.of(data) == train
    assert EvalView.of(data) == EvalView((32, 48), 3, 0.9, "bicubic")


@pytest.mark.parametrize("view", [TrainView((8, 8), 3), EvalView((8, 8), 3)])
def test_views_travel_to_other_processes(view):
    assert pickle.loads(pickle.dumps(view)) == view


def test_what_cannot_be_read_is_named():
    example = Example(b"nonsense", None, "cat.jpg")
    with pytest.raises(UserError, match=r"cat\.jpg can't be read"):
        TrainView((8, 8), 3)(example, rng(0))
    with pytest.raises(UserError, match=r"cat\.jpg can't be read"):
        EvalView((8, 8), 3)(example)
