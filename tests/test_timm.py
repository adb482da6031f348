"""Folders of timm's vision transformers."""

import json
import pathlib

import numpy as np
import pytest

import jepa_jax
from jepa_jax.errors import UserError

safetensors = pytest.importorskip("safetensors.numpy", reason="needs jepa_jax[interop]")

RECORDED = np.load(pathlib.Path(__file__).parent / "fixtures" / "reference_run.npz")
PREFIX = "init/target_encoder/"


def write(folder: pathlib.Path, told: dict | None = None, **changes) -> None:
    """The recorded encoder of the reference, as timm would write it.

    Args:
      told: of how images are seen.
    """
    tensors = {
        name.removeprefix(PREFIX): RECORDED[name]
        for name in RECORDED.files
        if name.startswith(PREFIX)
    }
    safetensors.save_file(tensors | changes, folder / "model.safetensors")
    settings = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    settings |= told or {}
    config = {"architecture": "vit_tiny_patch6_gap_48", "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(config))


def test_features_equal_the_reference_s(tmp_path):
    write(tmp_path)
    model = jepa_jax.load(tmp_path, heads=3)
    features = model.patch_features(RECORDED["step0/images"])
    np.testing.assert_allclose(features, RECORDED["forward/target_full"], atol=2e-5)
    assert model.backbone.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("told", "share", "filter"),
    [
        ({"crop_pct": 1.0, "interpolation": "bicubic"}, 1.0, "bicubic"),
        ({"crop_pct": 0.9, "interpolation": "random"}, 0.9, "bilinear"),
        ({}, 0.875, "bilinear"),
    ],
)
def test_images_are_seen_as_timm_sees_them(tmp_path, told, share, filter):
    write(tmp_path, told)
    view = jepa_jax.load(tmp_path, heads=3).view
    assert (view.share, view.interpolation) == (share, filter)


def test_tuned_positions_are_used(tmp_path):
    """A vector added to all positions does what it does added to the embedding's bias."""
    images = np.zeros((1, 48, 48, 3), np.float32)
    write(tmp_path)
    usual = jepa_jax.load(tmp_path, heads=3)
    shift = np.random.default_rng(0).normal(size=48).astype(np.float32)
    write(tmp_path, pos_embed=RECORDED[f"{PREFIX}pos_embed"] + shift)
    tuned = jepa_jax.load(tmp_path, heads=3)
    write(tmp_path, **{"patch_embed.proj.bias": RECORDED[f"{PREFIX}patch_embed.proj.bias"] + shift})
    moved = jepa_jax.load(tmp_path, heads=3)
    np.testing.assert_allclose(tuned.features(images), moved.features(images), atol=1e-5)
    assert abs(tuned.features(images) - usual.features(images)).max() > 1e-3


def test_a_class_token_is_refused(tmp_path):
    zeros = np.zeros((1, 65, 48), np.float32)
    write(tmp_path, cls_token=zeros[:, :1], pos_embed=zeros)
    with pytest.raises(UserError, match="it has a class token, which I-JEPA's encoder has not"):
        jepa_jax.load(tmp_path, heads=3)


def test_positions_of_no_grid(tmp_path):
    write(tmp_path, pos_embed=np.zeros((1, 65, 48), np.float32))
    with pytest.raises(UserError, match="65 positions, which are not sine-cosine, make no square"):
        jepa_jax.load(tmp_path, heads=3)
