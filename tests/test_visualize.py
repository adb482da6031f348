"""What stands in the pictures, read back from their pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jepa_jax.errors import StorageError, UserError
from jepa_jax.visualize import curves, figures, masks, pca

GREY = round(255 * masks.HIDDEN)
# On a grid of 2 × 4, one image: patches 0 and 6 are context; a block of 1 and 2, one of 7.
MASKS = SimpleNamespace(
    context=np.array([[0, 6]]),
    targets=np.array([[[1, 2], [7, 0]]]),  # the 0 is padding
    target_length=np.array([[2, 1]]),
)


def blue(height: int, width: int) -> np.ndarray:
    """One image of a colour that nothing else in a picture has."""
    return np.broadcast_to(np.uint8([20, 40, 160]), (1, height, width, 3))


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def panel_patches(path, image, grid, panel):
    """Colours (rows, columns, 3) at the patches' centres in a panel of a picture of one row."""
    pixels = read(path)
    is_image = (pixels == image[0, 0, 0]).all(-1)
    rows = np.flatnonzero(is_image.any(1))
    dark = (pixels[rows[len(rows) // 2]] < 250).any(-1)
    edges = np.flatnonzero(np.diff(np.pad(dark, 1).astype(int))).reshape(-1, 2)
    left, right = edges[panel]
    y = rows[0] + (np.arange(grid[0]) + 0.5) / grid[0] * len(rows)
    x = left + (np.arange(grid[1]) + 0.5) / grid[1] * (right - left)
    return pixels[np.ix_(y.astype(int), x.astype(int))]


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.png"
    figures.save(figures.figure(1, 1), path)
    before = path.read_bytes()
    (tmp_path / "picture.png.new").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"picture\.png cannot be written"):
        figures.save(figures.figure(2, 2), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("size", [(8, 16), (224, 448)])
def test_the_context_panel_keeps_context_patches_and_greys_the_others(tmp_path, size):
    path, image = tmp_path / "masks.png", blue(*size)
    masks.mask_overlay(image, MASKS, (2, 4), path)
    shown = panel_patches(path, image, (2, 4), 1).reshape(8, 3)
    for patch in range(8):
        expected = [20, 40, 160] if patch in (0, 6) else [GREY] * 3
        assert shown[patch].tolist() == expected


@pytest.mark.parametrize(("block", "patches"), [(0, {1, 2}), (1, {7})])
def test_a_target_panel_tints_its_real_patches_only(tmp_path, block, patches):
    path, image = tmp_path / "masks.png", blue(8, 16)
    masks.mask_overlay(image, MASKS, (2, 4), path)
    shown = panel_patches(path, image, (2, 4), 2 + block).reshape(8, 3)
    faded = 0.25 * np.array([20, 40, 160]) + 0.75 * 255 * masks.HIDDEN
    outside = {p for p in range(8) if np.abs(shown[p] - faded).max() <= 1}
    assert outside == set(range(8)) - patches
    assert len({tuple(shown[p]) for p in patches}) == 1


def test_each_target_block_is_outlined_in_its_colour(tmp_path):
    masks.mask_overlay(blue(8, 16), MASKS, (2, 4), tmp_path / "masks.png")
    pixels = read(tmp_path / "masks.png")
    for color, drawn in zip(masks.COLORS, (True, True, False), strict=False):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert ((pixels == rgb).all(-1).sum() > 100) == drawn


def test_a_grid_that_does_not_divide_the_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="do not divide"):
        masks.mask_overlay(blue(8, 16), MASKS, (3, 4), tmp_path / "masks.png")


def test_fewer_masks_than_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="1 masks for 2 images"):
        masks.mask_overlay(blue(8, 16).repeat(2, 0), MASKS, (2, 4), tmp_path / "masks.png")


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_than_three_are_averaged_into_grey(channels):
    images = np.random.default_rng(0).integers(256, size=(2, 4, 4, channels), dtype=np.uint8)
    shown = figures.as_rgb(images)
    assert shown.shape == (2, 4, 4, 3)
    for channel in range(3):
        np.testing.assert_allclose(shown[..., channel], images.mean(-1) / 255, atol=1e-6)


def planes(n: int, patches: int, stds: tuple[float, ...], width: int = 10) -> np.ndarray:
    """Features that vary along len(stds) orthogonal directions, by so much."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(width, width)))[0][: len(stds)]
    scores = rng.normal(size=(n * patches, len(stds)))
    scores = np.linalg.qr(scores - scores.mean(0))[0] * stds
    return (scores @ axes + 5).reshape(n, patches, width)


def test_pca_colours_are_the_first_three_components_in_order():
    features = planes(3, 50, (9.0, 3.0, 1.0, 0.1))
    flat = features.reshape(150, -1)
    left, _, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    colors = pca.pca_rgb(features).reshape(150, 3)
    inside = ((colors > 0) & (colors < 1)).all(1)
    assert inside.mean() > 0.9
    for i in range(3):
        correlation = np.corrcoef(colors[inside, i], left[inside, i])[0, 1]
        assert abs(correlation) == pytest.approx(1, abs=1e-9)


def test_pca_colours_fill_zero_to_one_and_outliers_do_not_squeeze_them():
    features = planes(3, 100, (9.0, 3.0, 1.0))
    colors = pca.pca_rgb(features)
    assert colors.min() == 0
    assert colors.max() == 1
    features[0, 0] += 1000 * (features[0, 0] - 5)
    assert np.ptp(pca.pca_rgb(features)[1:, :, 0]) > 0.5


def test_pca_colours_do_not_depend_on_the_order_of_patches():
    # The solver may give an axis with either sign; colours must not follow it.
    features = planes(4, 30, (9.0, 3.0, 1.0))
    np.testing.assert_allclose(
        pca.pca_rgb(features[::-1, ::-1]), pca.pca_rgb(features)[::-1, ::-1], atol=1e-9
    )


def test_the_largest_weight_of_a_component_is_positive():
    for sign in (1, -1):
        features = np.linspace(-1, 1, 20)[None, :, None] * np.array([0.2, sign, -0.3 * sign])
        assert np.array_equal(np.argsort(pca.pca_rgb(features)[0, 1:-1, 0]), np.arange(18)[::sign])


def test_components_that_do_not_exist_are_mid_grey():
    colors = pca.pca_rgb(planes(2, 30, (2.0,), width=2))
    assert np.ptp(colors[..., 0]) == 1
    assert (colors[..., 1:] == 0.5).all()
    assert (pca.pca_rgb(np.full((2, 5, 8), 0.1)) == 0.5).all()


def test_pca_overview_shows_the_map_beside_the_image(tmp_path):
    features = planes(1, 8, (9.0, 3.0, 1.0))
    path, image = tmp_path / "pca.png", blue(8, 16)
    pca.pca_overview(image, features, (2, 4), path)
    shown = panel_patches(path, image, (2, 4), 1).reshape(8, 3)
    np.testing.assert_allclose(shown, 255 * pca.pca_rgb(features)[0], atol=1)


def test_pca_overview_refuses_features_of_another_grid(tmp_path):
    with pytest.raises(UserError, match="grid of 3×4"):
        pca.pca_overview(blue(8, 16), planes(1, 8, (1.0,)), (3, 4), tmp_path / "pca.png")


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="finite"):
        pca.pca_rgb(np.full((1, 4, 8), np.nan))


LOSSES = [{"step": s, "loss": 1 / s, "learning_rate": 1e-3} for s in range(1, 30)]


def test_probes_get_a_panel_below_the_loss(tmp_path):
    curves.loss_curve(LOSSES, tmp_path / "loss.png")
    curves.loss_curve([*LOSSES, {"step": 20, "knn": 0.5}], tmp_path / "both.png")
    loss, both = read(tmp_path / "loss.png"), read(tmp_path / "both.png")
    orange = np.array([0xC8, 0x68, 0x2A])
    assert not (loss == orange).all(-1).any()
    rows = np.flatnonzero((both == orange).all(-1).any(1))
    assert rows.min() > 0.45 * len(both)


def test_rows_count_by_step_and_of_one_step_the_last(tmp_path):
    curves.loss_curve(LOSSES, tmp_path / "once.png")
    resumed = [{"step": 9, "loss": 7.0}, *LOSSES[::-1]]
    curves.loss_curve(resumed, tmp_path / "resumed.png")
    curves.loss_curve(resumed[::-1], tmp_path / "other.png")
    once = read(tmp_path / "once.png")
    assert np.array_equal(once, read(tmp_path / "resumed.png"))
    assert not np.array_equal(once, read(tmp_path / "other.png"))


@pytest.mark.parametrize("rows", [LOSSES[:1], [{"step": 3, "linear": 0.4}]])
def test_a_single_point_is_visible(tmp_path, rows):
    curves.loss_curve(rows, tmp_path / "loss.png")
    pixels = read(tmp_path / "loss.png")
    assert (np.ptp(pixels[len(pixels) // 4 : len(pixels) * 3 // 4, 300:900], -1) > 30).any()


def test_metrics_without_loss_or_probe_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        curves.loss_curve([{"step": 1, "learning_rate": 0.1}], tmp_path / "loss.png")


def test_smoothing_averages_what_the_window_holds_and_leaves_out_nan():
    values = np.tile([1.0, 3.0], 100)  # the window is 11 wide, 6 at the ends
    assert curves.smooth(values)[100] == pytest.approx((5 * 1 + 6 * 3) / 11)
    assert curves.smooth(values)[0] == pytest.approx(2)
    values[100] = np.nan
    assert np.isfinite(curves.smooth(values)).all()
    assert np.array_equal(curves.smooth(np.array([4.0, np.nan])), [4.0, np.nan], equal_nan=True)
