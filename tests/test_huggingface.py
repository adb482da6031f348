"""Folders of Hugging Face's IJepaModel: as transformers wrote and computed them, and ours there."""

import dataclasses
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import jepa_jax
from jepa_jax.config import defaults
from jepa_jax.data.protocol import Example
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import StorageError, UserError
from jepa_jax.ijepa import IJEPA
from jepa_jax.interop import safetensors_files
from jepa_jax.interop.huggingface import write_huggingface
from jepa_jax.interop.model_card import model_card
from tests.saving import save_run
from tests.tiny import tiny

safetensors = pytest.importorskip("safetensors.numpy", reason="needs jepa_jax[interop]")

RECORDED = pathlib.Path(__file__).parent / "fixtures" / "huggingface"
TOLD = {"mean": [0.5] * 3, "std": [0.5] * 3}  # else a warning says that ImageNet's are taken
QUERY = "encoder.layer.0.attention.attention.query.weight"


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors.load_file(folder / "model.safetensors")


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A copy of the recorded folder, to be spoilt."""
    return pathlib.Path(shutil.copytree(RECORDED, tmp_path / "folder"))


def change(folder: pathlib.Path, **keys) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of ours with sine-cosine positions, and its target encoder as a folder."""
    run, folder = (tmp_path_factory.mktemp(name) for name in ("run", "exported"))
    config = tiny()
    config.data.path = "/home/somebody/photos"
    config.data.eval_crop = 0.875  # of 8 pixels, of which the processor makes 9: 0.889
    # No default, if impossible together.
    config.data.interpolation, config.data.resizer = "bicubic", "fast"
    save_run(run, config)
    accuracy = {"trained target encoder": {"knn": 0.5, "linear": 0.625}}
    (run / "results.json").write_text(json.dumps({"step": 30, "accuracy": accuracy}))
    write_huggingface(jepa_jax.load(run), folder)
    return run, folder


@pytest.mark.parametrize("size", ["same", "larger"])
def test_hidden_states_equal_those_of_transformers(size):
    expected = np.load(RECORDED / "expected.npz")
    features = jepa_jax.load(RECORDED, **TOLD).patch_features(expected[f"{size}/images"])
    np.testing.assert_allclose(features, expected[f"{size}/features"], atol=1e-5)


def test_in_and_out_again_is_bitwise_the_same(tmp_path):
    write_huggingface(jepa_jax.load(RECORDED, **TOLD), tmp_path)
    before, after = tensors(RECORDED), tensors(tmp_path)
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (RECORDED, tmp_path)
    )
    for key in before.keys() - {
        "dtype",
        "transformers_version",
        "pooler_act",
        "pooler_output_size",
    }:
        assert before[key] == after[key], key


def test_out_and_in_again_is_bitwise_the_same(exported):
    run, back = (jepa_jax.load(path) for path in exported)
    np.testing.assert_equal(back.params, run.params)
    assert (back.backbone, back.view, back.part) == (
        type(back.backbone)(run.backbone.encoder.clone(unroll=0), (0.3,), (0.4,)),
        run.view,
        "target",
    )


def test_the_model_card_tells_recipe_and_results(exported):
    card = (exported[1] / "README.md").read_text()
    assert "**target encoder**" in card
    assert "| mean of the pixels (0..1) | 0.3 |" in card
    assert "predictor.depth = 1\n" in card
    assert "| trained target encoder | 50.0 | 62.5 |" in card
    assert "somebody" not in card


def test_equal_numbers_are_not_told_as_another_recipe(exported):
    model = jepa_jax.load(exported[0])
    config = defaults().to_dict()
    config["data"]["crop_scale"] = [0.3, 1]  # the default is (0.3, 1.0)
    config["train"]["epochs"] = 7
    card = model_card(dataclasses.replace(model, about={"config": config}))
    assert card.split("```")[-2] == "\ntrain.epochs = 7.0\n"


def test_the_other_encoder_is_not_there(exported):
    with pytest.raises(UserError, match="holds the target encoder only"):
        jepa_jax.load(exported[1], "context")


def test_a_folder_that_is_not_empty_is_not_written_over(exported):
    with pytest.raises(UserError, match="is not empty"):
        write_huggingface(jepa_jax.load(exported[0]), exported[1])


def test_the_current_folder_is_no_new_one(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no name for a new folder"):
        write_huggingface(jepa_jax.load(exported[0]), ".")


def test_a_folder_that_cannot_be_written(exported, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="out cannot be written"):
        write_huggingface(jepa_jax.load(exported[0]), tmp_path / "file" / "out")

    def full(*_, **__):
        raise safetensors_files.extra("safetensors").SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors, "save_file", full)
    with pytest.raises(StorageError, match=r"out cannot be written \(No space left"):
        write_huggingface(jepa_jax.load(exported[0]), tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_released_weights_get_the_normalisation_that_they_were_trained_with():
    with pytest.warns(UserWarning, match="ImageNet's mean and deviation"):
        assert jepa_jax.load(RECORDED).backbone.mean == IJEPA.mean


def test_a_processor_s_own_normalisation_is_taken(folder):
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert jepa_jax.load(folder).backbone.mean == (0.1, 0.2, 0.3)


def test_weights_in_several_files(folder):
    whole, places = tensors(RECORDED), {}
    for number, name in enumerate(whole):
        places[name] = f"part{number % 2}.safetensors"
    for file in set(places.values()):
        part = {name: whole[name] for name in whole if places[name] == file}
        safetensors.save_file(part, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    expected = jepa_jax.load(RECORDED, **TOLD).params
    np.testing.assert_equal(jepa_jax.load(folder, **TOLD).params, expected)


def test_positions_of_another_grid_are_refused(exported, tmp_path):
    shutil.copytree(exported[1], tmp_path, dirs_exist_ok=True)
    change(tmp_path, image_size=[4, 16])
    with pytest.raises(UserError, match="does not hold the positions of a grid of 2×8"):
        jepa_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"model_type": "vit"}, "no I-JEPA, but model_type='vit'"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps=1e-12, but here it is always 1e-06"),
        ({"hidden_act": "relu"}, "hidden_act=relu"),
        ({"image_size": 25}, "image_size=25, which does not divide into square patches"),
        ({"image_size": "big"}, "config.json: .*'big'"),
        ({"num_attention_heads": 5}, "multiple of 4 and of num_attention_heads=5"),
        ({"num_hidden_layers": 0}, "sizes that are not positive"),
        ({"num_hidden_layers": 1}, r"encoder\.layer\.1\.output\.dense\.bias is unknown"),
        ({"num_hidden_layers": 4}, r"layer\.\{2,3\}\.output\.dense\.bias is missing"),
        ({"hidden_size": 64}, r"query\.weight is \(32, 32\), not \(64, 64\)"),
        ({"image_size": 32}, r"position_embeddings is \(1, 9, 32\), not \(1, 16, 32\)"),
    ],
)
def test_a_config_of_another_model(folder, keys, complaint):
    change(folder, **keys)
    with pytest.raises(UserError, match=complaint) as caught:
        jepa_jax.load(folder, **TOLD)
    assert "\n" not in str(caught.value)


def test_every_tensor_that_does_not_fit_is_named(folder):
    content = tensors(RECORDED)
    content["classifier.weight"] = content.pop("layernorm.weight")
    content[QUERY] = content[QUERY].astype(np.int8)
    safetensors.save_file(content, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        jepa_jax.load(folder, **TOLD)
    for complaint in (
        "classifier.weight is unknown",
        "layernorm.weight is missing",
        f"{QUERY} is int8, not of floats",
    ):
        assert complaint in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_half_a_file(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{file} (is damaged|cannot be read)"):
        jepa_jax.load(folder, **TOLD)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match=r"pip install safetensors.*'jepa_jax\[interop\]'"):
        jepa_jax.load(RECORDED, **TOLD)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"there is no model\.safetensors"):
        jepa_jax.load(folder, **TOLD)


class TestWithTransformers:
    @pytest.fixture
    def transformers(self):
        pytest.importorskip("torch", reason="needs jepa_jax[interop]")
        return pytest.importorskip("transformers", reason="needs jepa_jax[interop]")

    @pytest.mark.parametrize(
        ("width", "depth", "heads", "hidden", "size", "patch", "channels"),
        [
            (32, 2, 4, 64, [24, 40], 8, 3),
            (48, 3, 3, 192, 32, 4, 1),
            (88, 1, 4, 384, 28, 14, 3),  # the ratio of ViT-g's MLP, 48/11
        ],
    )
    def test_random_models_of_theirs(
        self, transformers, tmp_path, width, depth, heads, hidden, size, patch, channels
    ):
        import torch

        torch.manual_seed(0)
        config = transformers.IJepaConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=hidden,
            image_size=size,
            patch_size=patch,
            num_channels=channels,
            layer_norm_eps=1e-6,
        )
        theirs = transformers.IJepaModel(config).eval()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        theirs.save_pretrained(tmp_path / "theirs")
        ours = jepa_jax.load(tmp_path / "theirs", mean=[0.5] * channels, std=[0.5] * channels)

        def hidden_states(model):
            with torch.no_grad():
                return model(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state

        images = np.random.default_rng(0).normal(size=(2, *ours.view.size, channels))
        images = images.astype(np.float32)
        np.testing.assert_allclose(ours.patch_features(images), hidden_states(theirs), atol=1e-5)

        write_huggingface(ours, tmp_path / "ours")
        back, told = transformers.IJepaModel.from_pretrained(
            tmp_path / "ours", output_loading_info=True
        )
        assert not any(told.values())
        torch.testing.assert_close(back.state_dict(), theirs.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close(hidden_states(back), hidden_states(theirs), rtol=0, atol=0)

    def test_a_run_of_ours(self, transformers, exported):
        import torch

        ours = jepa_jax.load(exported[0])
        theirs = transformers.AutoModel.from_pretrained(exported[1])
        images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state
        np.testing.assert_allclose(ours.patch_features(images), expected, atol=1e-5)

    @pytest.mark.parametrize(("size", "larger"), [((24, 24), (30, 30)), ((24, 40), (30, 50))])
    def test_the_processor_crops_and_normalises_as_in_evaluation(
        self, transformers, tmp_path, size, larger
    ):
        ours = jepa_jax.load(RECORDED, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6]).resized(size)
        ours = dataclasses.replace(ours, view=EvalView(size, 3, 0.8))
        write_huggingface(ours, tmp_path / "ours")
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
        pixels = np.random.default_rng(0).integers(0, 256, (*larger, 3), np.uint8)
        seen = ours.view(Example(pixels, None, "noise"))
        normal = (seen / 255 - ours.backbone.mean) / ours.backbone.std
        theirs = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(theirs[0].transpose(1, 2, 0), normal, atol=1e-6)
