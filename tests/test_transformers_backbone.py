"""Tiny random models of transformers as backbones: the features are theirs."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from jepa_jax.data.loader import evaluation_batches
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import collect
from jepa_jax.evaluation.opening import How, check_names, open_backbone
from jepa_jax.evaluation.run import Asked, evaluate
from jepa_jax.evaluation.transformers_backbone import open_transformers
from jepa_jax.parallel.sharding import make_mesh
from tests.tiny import tiny

torch = pytest.importorskip("torch", reason="needs jepa_jax[interop]")
transformers = pytest.importorskip("transformers", reason="needs jepa_jax[interop]")

SIZES = {
    "image_size": 16, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 16, "patch_size": 4, "initializer_range": 1.0,
}  # fmt: skip
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
CONVOLUTIONS = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
BLOCKS = {  # two stages of EfficientNet, narrow; in the end 1,280 · 0.1 channels
    "image_size": 16, "width_coefficient": 0.1, "in_channels": [32, 16], "out_channels": [16, 24],
    "kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 1], "expand_ratios": [1, 6],
    "hidden_dim": 128, "initializer_range": 0.6,
}  # fmt: skip
KINDS = {
    "clip": ("CLIPVision", SIZES),
    "dinov2": ("Dinov2", SIZES),
    "registers": ("Dinov2WithRegisters", SIZES | {"num_register_tokens": 2}),
    "mae": ("ViTMAE", SIZES),
    "swin": ("Swin", SWIN | {"window_size": 2, "initializer_range": 1.0}),
    "resnet": ("ResNet", CONVOLUTIONS | {"layer_type": "basic"}),
    "efficientnet": ("EfficientNet", BLOCKS),
}
PATCHES = {"resnet": 4}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
PROCESSOR = {
    "size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "resample": 3,
    "do_center_crop": True, "image_mean": MEAN, "image_std": STD,
}  # fmt: skip
INDICES = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    torch.manual_seed(0)
    parent, found = tmp_path_factory.mktemp("models"), {}
    for kind, (name, sizes) in KINDS.items():
        config = getattr(transformers, f"{name}Config")(**sizes)
        found[kind] = parent / kind
        getattr(transformers, f"{name}Model")(config).eval().save_pretrained(found[kind])
        (found[kind] / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return found


def looked(backbone, layers: int = 1, patches: bool = False):
    """Features of five digits in batches of four, and these as the model saw them."""
    data = tiny().data
    source = open_source(data, "train")
    batches = list(evaluation_batches(source, data, 4, INDICES, view=backbone.view))
    images = np.concatenate([batch["images"] for batch in batches])[: len(INDICES)]
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    found = collect(backbone.stream(batches, mesh, layers, patches))
    assert found.index.tolist() == INDICES
    pixels = (images / 255 - np.array(MEAN)) / np.array(STD)
    return found.values, torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)


def theirs(folder: pathlib.Path, pixels):
    """What the model itself says; of MAE with no patch hidden, in order."""
    model = transformers.AutoModel.from_pretrained(folder)
    given = {}
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0
        given["noise"] = torch.arange(16.0).expand(len(pixels), -1)
    with torch.no_grad():
        return model(pixels, output_hidden_states=True, **given), model


def test_features_are_the_models_patches_or_their_average(folders, kind):
    backbone = open_backbone(f"hf:{folders[kind]}", tiny(), How())
    found, pixels = looked(backbone, patches=True)
    last = theirs(folders[kind], pixels)[0].last_hidden_state
    expected = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
    count = PATCHES.get(kind, 16)
    np.testing.assert_allclose(found, expected[:, -count:], atol=1e-5)
    assert found.shape[1] == count
    np.testing.assert_allclose(looked(backbone)[0], found.mean(1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_that_is_stored_in_half_is_computed_in_float32(folders, tmp_path, dtype):
    model = transformers.AutoModel.from_pretrained(folders["dinov2"])
    shutil.copytree(folders["dinov2"], tmp_path / "half")
    model.to(dtype).save_pretrained(tmp_path / "half")
    backbone = open_transformers(f"hf:{tmp_path}/half", None, "average")
    assert {each.dtype for each in backbone.module.parameters()} == {torch.float32}
    assert len(backbone.identity) == 16


def test_the_order_of_patches_is_that_of_the_image(folders):
    """MAE shuffles them, unless it is told not to."""
    backbone = open_transformers(f"hf:{folders['mae']}", None, "average")
    pixels = torch.zeros(1, 3, 16, 16)
    pixels[:, :, 4:8, 8:12] = 5.0
    with torch.inference_mode():
        [patches] = backbone._features(backbone.module, pixels, 1, True)
    assert int((patches - patches[0]).abs().sum(-1).argmax()) == 6


@pytest.mark.parametrize("kind", ["clip", "dinov2", "mae"], indirect=True)
def test_earlier_layers_come_first_each_after_the_final_norm(folders, kind):
    found, pixels = looked(open_transformers(f"hf:{folders[kind]}", None, "average"), 2)
    output, model = theirs(folders[kind], pixels)
    norm = getattr(model, "layernorm", lambda states: states)
    states = [norm(output.hidden_states[-2]), output.last_hidden_state]
    expected = torch.cat([each[:, 1:].mean(1) for each in states], -1).detach()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "dinov2", "swin", "efficientnet"], indirect=True)
def test_the_models_own_vector(folders, kind):
    found, pixels = looked(open_transformers(f"hf:{folders[kind]}", None, "own"))
    expected = theirs(folders[kind], pixels)[0].pooler_output.flatten(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_view_is_the_processors(folders):
    view = open_transformers(f"hf:{folders['clip']}", None, "average").view
    assert (view.size, view.channels, view.share, view.interpolation) == (
        *((16, 16), 3, 0.8, "bicubic"),
    )
    larger = open_transformers(f"hf:{folders['clip']}", (24, 24), "average")
    assert looked(larger, patches=True)[0].shape == (5, 36, 8)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViT", {"image_mean": MEAN, "image_std": STD}),
        ("EfficientNet", {"image_mean": MEAN, "image_std": STD}),
        ("EfficientNet", {"rescale_factor": 1 / 127.5, "rescale_offset": True}),
        ("EfficientNet", {"do_normalize": False, "include_top": False}),
    ],
)
def test_pixels_are_scaled_as_the_processor_does_it(folders, tmp_path, name, settings):
    sizes = {"size": {"height": 16, "width": 16}, "do_resize": False}
    processor = getattr(transformers, f"{name}ImageProcessorPil")(**sizes, **settings)
    shutil.copytree(folders["efficientnet"], tmp_path, dirs_exist_ok=True)
    processor.save_pretrained(tmp_path)
    found = open_transformers(f"hf:{tmp_path}", None, "average")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose((image / 255 - found.mean) / found.std, expected, atol=1e-5)


def test_stands_in_the_same_table(folders, tmp_path, capsys):
    names = ["pixels", f"hf:{folders['swin']}"]
    asked = Asked(names, ["knn"], tiny(), out=str(tmp_path), train_images=60, test_images=20)
    evaluate(asked)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [each["checkpoint"] for each in results] == ["raw pixels", *names[1:]]
    evaluate(asked)
    assert json.loads((tmp_path / "results.json").read_text())["results"] == results


def test_a_model_with_a_text_part_is_its_vision_part(folders, tmp_path):
    vision = {key: value for key, value in SIZES.items() if key != "initializer_range"}
    text = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9,
        "intermediate_size": 8,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    assert looked(open_transformers(f"hf:{tmp_path}", None, "average"))[0].shape == (5, 8)


def test_what_cannot_be_is_answered_in_one_line(folders, tmp_path):
    bert = tmp_path / "bert"
    sizes = {key: value for key, value in SIZES.items() if "_size" not in key}
    config = transformers.BertConfig(vocab_size=8, hidden_size=8, intermediate_size=8, **sizes)
    transformers.BertModel(config).save_pretrained(bert)
    (bert / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    half = tmp_path / "half"
    half.mkdir()
    for file in folders["clip"].iterdir():
        content = file.read_bytes()
        share = 2 if file.suffix == ".safetensors" else 1
        (half / file.name).write_bytes(content[: len(content) // share])
    for ask, complaint in (
        (lambda: open_transformers(f"hf:{bert}", None, "average"), "no model of images"),
        (lambda: open_transformers(f"hf:{half}", None, "average"), "can't be loaded"),
        (lambda: check_names(["hf:nowhere"]), "hf:nowhere is not there"),
        (lambda: looked(open_transformers(f"hf:{folders['mae']}", None, "own")), "--pool=average"),
        (
            lambda: looked(open_transformers(f"hf:{folders['swin']}", None, "average"), 3),
            "layers=1",
        ),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            ask()
        assert "\n" not in str(error.value)
    (half / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="no preprocessor_config"):
        open_transformers(f"hf:{half}", None, "average")
