"""What `launch/visualize.py` draws of a checkpoint, and what the pictures are made of."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jepa_jax import losses
from jepa_jax.errors import StorageError, UserError
from jepa_jax.interop import runs
from jepa_jax.interop.runs import find_checkpoint
from jepa_jax.masks import Masks
from jepa_jax.models import transformer
from jepa_jax.models.attention import attention
from jepa_jax.models.vit import patchify
from jepa_jax.visualize import checkpoint, pca
from jepa_jax.visualize import map as maps
from jepa_jax.visualize.attention import attention_weights
from jepa_jax.visualize.checkpoint import PICTURES, visualize
from jepa_jax.visualize.figures import on_image
from jepa_jax.visualize.prediction import block_agreement
from jepa_jax.visualize.retrieval import nearest, retrieval_overview
from jepa_jax.visualize.similarity import centred, cosine, salient
from jepa_jax.visualize.trained import read_trained
from tests.saving import save_run
from tests.tiny import tiny

RNG = np.random.default_rng(0)
MASKS = Masks(
    context=np.array([[0, 3]]),
    targets=np.array([[[1, 2], [4, 4]]]),  # the last is padding
    target_length=np.array([[2, 1]]),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = tiny()
    config.model.depth = 2
    save_run(folder, config)
    return folder


@pytest.fixture(scope="module")
def drawn(run):
    return visualize(run, images=3, bank=40)


def test_every_picture_shows_something(drawn, run):
    assert [file.stem for file in drawn] == [*PICTURES, "steps"]
    for file in drawn:
        assert file.parent == run / "pictures"
        with Image.open(file) as image:
            assert np.asarray(image.convert("L")).std() > 5, file


def test_predicted_pixels_are_compared_with_pixels(tmp_path, monkeypatch):
    config = tiny()
    config.targets = "pixels"
    save_run(tmp_path, config)
    found = {}
    monkeypatch.setattr(checkpoint, "block_agreement", lambda *seen: found.update(usual=seen[-1]))
    monkeypatch.setattr(checkpoint, "prediction_overview", lambda *_: None)
    monkeypatch.setattr(
        checkpoint, "retrieval_overview", lambda *seen: found.update(bank=seen[4:6])
    )
    visualize(tmp_path, ["predictions", "retrieval"], images=3, bank=9)
    images, bank = found["bank"]
    own = patchify(images / 255, 2)
    np.testing.assert_allclose(bank, losses.normalize_targets((own - 0.3) / 0.4), atol=1e-4)
    np.testing.assert_allclose(found["usual"], bank.mean(0), atol=1e-6)


def test_unknown_pictures_are_refused_with_the_nearest(run):
    with pytest.raises(UserError, match="did you mean 'features'"):
        visualize(run, ["feature"])


def test_where_the_images_lie_may_differ(run, tmp_path):
    np.savez(tmp_path / "own.npz", images=np.zeros((9, 8, 8), np.uint8))
    with pytest.raises(UserError, match="nowhere"):
        visualize(run, ["masks"], data={"source": "npz", "path": str(tmp_path / "nowhere.npz")})
    data = {"source": "npz", "path": str(tmp_path / "own.npz"), "test_split": ""}
    [file] = visualize(run, ["masks"], tmp_path / "out", data=data)
    assert file == tmp_path / "out" / "masks.png"


def test_some_images_are_left_to_compare_with(run, tmp_path):
    for count in (1, 6):
        images = RNG.integers(0, 255, (count, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / f"{count}.npz", images=images)
    data = {"source": "npz", "path": str(tmp_path / "6.npz"), "test_split": ""}
    assert visualize(run, ["similarity"], tmp_path / "out", images=8, data=data)
    with pytest.raises(UserError, match="a single image has none to compare it with"):
        visualize(run, ["similarity"], data=data | {"path": str(tmp_path / "1.npz")})


def test_attention_is_that_of_the_encoder(run, monkeypatch):
    encoder = read_trained(run).encoder
    images = RNG.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    found = attention_weights(encoder.backbone, encoder.params, images)
    seen = []

    def heard(query, key, value, length, kernel):
        # Values that are the unit vectors make the weights the result.
        unit = jnp.broadcast_to(jnp.eye(key.shape[2]), (*key.shape[:3], key.shape[2]))
        jax.debug.callback(seen.append, attention(query, key, unit), ordered=True)
        return attention(query, key, value, length, kernel)

    monkeypatch.setattr(transformer, "attention", heard)
    jax.clear_caches()
    encoder.patch_features(images)
    jax.effects_barrier()
    assert len(seen) == 2
    np.testing.assert_allclose(found, seen[-1], atol=1e-6)


def test_centred_features_are_free_of_their_position():
    position, own = RNG.normal(size=(1, 5, 8)), RNG.normal(size=(4, 1, 8))
    left = centred(own + position, own + position)
    np.testing.assert_allclose(left, np.broadcast_to(own - own.mean(0), left.shape), atol=1e-12)


def test_cosine_is_one_for_itself_and_zero_for_nothing():
    x = RNG.normal(size=(3, 8))
    np.testing.assert_allclose(cosine(x, 2 * x), 1)
    np.testing.assert_allclose(cosine(x, -x), -1)
    assert (cosine(x, np.zeros_like(x)) == 0).all()


def test_the_salient_patch_is_the_most_unusual():
    features = np.ones((2, 6, 4))
    features[0, 5] = features[1, 2] = 3
    assert salient(features).tolist() == [5, 2]


def test_agreement_is_one_for_the_truth_and_zero_for_the_usual():
    usual, true = RNG.normal(size=(6, 8)), RNG.normal(size=(1, 2, 2, 8))
    agreement = block_agreement(true, true, MASKS, usual)
    np.testing.assert_allclose(agreement[0], [[1, 1], [1, np.nan]])
    np.testing.assert_allclose(
        block_agreement(usual[MASKS.targets], true, MASKS, usual)[0], [[0, 0], [0, np.nan]]
    )


def test_patches_are_put_together_where_they_were():
    image = RNG.random((1, 4, 6, 3))
    patches = patchify(image, 2)[0]
    np.testing.assert_array_equal(
        on_image(np.zeros((6, 12)), np.arange(6), patches, (2, 3), 3), image[0]
    )


def test_nearest_goes_by_angle_in_however_many_parts():
    bank = RNG.normal(size=(50, 8))
    index = RNG.integers(50, size=3000)
    scale = RNG.uniform(0.1, 9, size=(3000, 1))
    np.testing.assert_array_equal(nearest(bank[index] * scale, bank), index)


def test_a_predicted_block_is_shown_as_the_patches_that_it_is_like(tmp_path):
    # The bank: one image of six flat patches of different grey; predicted are 5 and 3, then 0.
    greys = np.array([10, 60, 110, 160, 200, 250], np.uint8).reshape(2, 3)
    bank_image = greys.repeat(4, 0).repeat(4, 1)[None, :, :, None]
    bank = np.eye(6)[None]
    predicted, true = np.zeros((2, 1, 2, 2, 6))
    predicted[0, 0, 0, 5] = predicted[0, 0, 1, 3] = predicted[0, 1, 0, 0] = 1
    true[0, 0, :, 1] = true[0, 1, 0, 2] = 1
    image = np.full((1, 8, 12, 1), 30, np.uint8)
    path = tmp_path / "retrieval.png"
    retrieval_overview(image, MASKS, predicted, true, bank_image, bank, (2, 3), path)
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("L"))
    present = {grey: (pixels == grey).mean() > 0.003 for grey in greys.ravel().tolist()}
    assert present == {10: True, 60: True, 110: True, 160: True, 200: False, 250: True}


def test_a_map_puts_like_images_together():
    groups = np.repeat(np.arange(3), 12)
    features = 20 * np.eye(8)[groups] + RNG.normal(size=(36, 8))
    places = maps.tsne(features)
    assert places.min() == 0
    assert places.max() == 1
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + 9 * np.eye(36)
    assert (groups[distance.argmin(1)] == groups).all()


def test_a_map_of_too_few_images_is_refused():
    with pytest.raises(UserError, match="5 or more"):
        maps.tsne(np.zeros((4, 8)))


def test_a_map_of_features_that_are_all_the_same_is_refused():
    with pytest.raises(UserError, match="the features of all images are the same"):
        maps.tsne(np.full((9, 8), 0.1, np.float32))


def test_a_map_of_few_images_is_left_out_unless_it_is_asked_for(run, tmp_path, monkeypatch, capsys):
    for name in [*PICTURES][:-1]:
        monkeypatch.setitem(checkpoint.PICTURES, name, lambda *_: None)
    monkeypatch.setattr(checkpoint, "_steps", lambda *_: None)
    files = visualize(run, out=tmp_path, images=3, bank=40, data=few(tmp_path, 7))
    assert [file.stem for file in files] == [*[*PICTURES][:-1], "steps"]
    assert "map is left out: a map of 4 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="a map of 4 images"):
        visualize(run, ["map"], images=3, bank=40, data=few(tmp_path, 7))


def few(folder, count: int) -> dict[str, str]:
    """The data section of a run on so many images."""
    np.savez(folder / "few.npz", images=RNG.integers(0, 256, (count, 8, 8), np.uint8))
    return {"source": "npz", "path": str(folder / "few.npz"), "test_split": ""}


def test_thumbnails_do_not_overlap():
    places = RNG.random((200, 2))
    kept = places[maps.without_overlap(places, 0.1)]
    distance = np.abs(kept[:, None] - kept).max(-1) + np.eye(len(kept))
    assert distance.min() >= 0.1
    assert len(kept) > 20


def test_colours_stay_when_training_turns_the_features():
    scores = RNG.normal(size=(2, 40, 3)) * (9, 3, 1)
    first = np.pad(scores, ((0, 0), (0, 0), (0, 5)))
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    later = (1.5 * first + [4] * 8) @ turn
    like = pca.pca_scores(first)
    np.testing.assert_allclose(pca.pca_rgb(later, like), pca.pca_rgb(first), atol=1e-9)
    swapped = first * np.array([1, 4, 1, 1, 1, 1, 1, 1])  # the second is now the first
    np.testing.assert_allclose(pca.pca_rgb(swapped, like), pca.pca_rgb(first), atol=0.2)
    assert np.abs(pca.pca_rgb(swapped) - pca.pca_rgb(first)).max() > 0.5


def test_scores_of_other_patches_are_refused():
    with pytest.raises(UserError, match="same patches"):
        pca.pca_scores(RNG.normal(size=(2, 5, 8)), np.zeros((2, 6, 3)))


def test_storage_that_fails_is_not_taken_for_damage(run, monkeypatch):
    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(runs.json, "loads", refused)
    with pytest.raises(StorageError, match=r"30 cannot be read \(.*Permission denied\)"):
        find_checkpoint(run)
    monkeypatch.setattr(runs.ocp.utils, "checkpoint_steps", refused)
    with pytest.raises(StorageError, match=r"run\d+ cannot be read"):
        find_checkpoint(run)


def test_a_checkpoint_of_its_own_is_read_by_its_step(run):
    assert read_trained(run / "checkpoints" / "30").step == find_checkpoint(run).step == 30
