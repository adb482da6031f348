"""Folders of Hugging Face's `IJepaModel`: read and written, without torch or transformers."""

import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

import jepa_jax
from jepa_jax.data.resizing import FILTERS
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.ijepa import IJEPA
from jepa_jax.interop.architecture import Hints
from jepa_jax.interop.huggingface_names import POSITIONS, huggingface_layout
from jepa_jax.interop.layout import read, write
from jepa_jax.interop.model_card import model_card
from jepa_jax.interop.positions import sincos_grid
from jepa_jax.interop.reference import encoder_shapes
from jepa_jax.interop.safetensors_files import FILE, read_json, read_weights, write_weights
from jepa_jax.models.layers import LAYER_NORM_EPS
from jepa_jax.models.vit import Encoder
from jepa_jax.pretrained import Backbone, Pretrained
from jepa_jax.training.workdir import storage_of

MODEL_TYPE = "ijepa"
MARK = "jepa_jax"  # our entry in config.json; transformers keeps it

# Transformers' defaults, which a config.json may leave out.
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}
BUILT_IN = {"hidden_act": "gelu", "layer_norm_eps": LAYER_NORM_EPS, "qkv_bias": True}
# What the processor of the released conversions says; the weights were trained with ImageNet's.
PROCESSOR_DEFAULT = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def read_huggingface(folder: os.PathLike, hints: Hints) -> Pretrained:
    """The encoder of a folder with config.json and model.safetensors.

    Mean and deviation are those of preprocessor_config.json, but ImageNet's (with a warning) where
    it has transformers' default and was not written by us: with them the released weights were
    trained. Positions that are not sine-cosine become a parameter of the encoder.

    Raises:
      UserError: if the folder holds another model or a damaged one; names every misfit.
    """
    folder = pathlib.Path(folder)
    config, processor = DEFAULTS | read_json(folder / "config.json"), _processor(folder)
    try:
        encoder, size, channels = _sizes(config)
        grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
        tensors = read_weights(folder)
        table = np.asarray(tensors.get(POSITIONS, np.zeros((1, 0, 4))), np.float32)
        if table.ndim == 3 and table.size and sincos_grid(table[0]) is None:
            encoder = encoder.clone(positions="learned")
        layout = huggingface_layout(encoder, channels, grid)
        shapes = encoder_shapes(encoder, channels, grid)
        params = read(tensors, layout, shapes, "the IJepaModel that config.json tells of")
        mean, std = hints.normalization(channels, *_normalization(folder, config, processor, hints))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    about = {"source": folder.name}
    mark = config.get(MARK) or {}
    return Pretrained(
        Backbone(encoder, mean, std),
        params,
        _view(size, channels, processor, mark),
        mark.get("encoder", ""),
        about,
    )


def write_huggingface(pretrained: Pretrained, folder: os.PathLike) -> None:
    """Writes config.json, model.safetensors, preprocessor_config.json and a model card.

    Raises:
      UserError: if there is something in the folder.
      StorageError: if it cannot be written.
    """
    folder = pathlib.Path(folder)
    refuse_overwriting(folder)
    encoder, channels = pretrained.backbone.encoder, pretrained.view.channels
    layout = huggingface_layout(encoder, channels, pretrained.grid)
    temporary = folder.with_name(f".{folder.name}.new")
    with storage_of(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was killed
        temporary.mkdir()
        try:
            write_weights(temporary / FILE, write(pretrained.params, layout))
            (temporary / "config.json").write_text(_json(_config(pretrained)))
            (temporary / "preprocessor_config.json").write_text(_json(_preprocessor(pretrained)))
            (temporary / "README.md").write_text(model_card(pretrained))
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_overwriting(folder: os.PathLike) -> None:
    """Raises UserError if there is something in the folder, or it is the current one."""
    folder = pathlib.Path(folder)
    if not folder.name:  # it comes into its place whole, which would take the current one away
        raise UserError(f"{folder} is no name for a new folder: name one, such as digits_hf")
    with storage_of(folder, "read"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty: name another folder")


def _sizes(config: Mapping[str, Any]) -> tuple[Encoder, tuple[int, int], int]:
    """Encoder, height and width of the images, and their channels."""
    if config.get("model_type") != MODEL_TYPE:
        raise UserError(
            f"this is no I-JEPA, but model_type={config.get('model_type')!r}: to evaluate another"
            " model of images, write hf: before the folder"
        )
    for key, value in BUILT_IN.items():
        if config[key] != value:
            raise UserError(f"config.json has {key}={config[key]}, but here it is always {value}")
    try:
        height, width = _pair(config["image_size"])
        patch_size, other_side = _pair(config["patch_size"])
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        hidden_size, depth, heads, intermediate = (int(config[name]) for name in names)
        channels = int(config["num_channels"])
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json: {error}") from None
    if min(hidden_size, depth, heads, intermediate, channels, patch_size, height, width) < 1:
        raise UserError("config.json has sizes that are not positive")
    if patch_size != other_side or height % patch_size or width % patch_size:
        raise UserError(
            f"config.json has image_size={config['image_size']}, which does not divide into square"
            f" patches of patch_size={config['patch_size']}"
        )
    if hidden_size % heads or hidden_size % 4:
        raise UserError(
            f"config.json has hidden_size={hidden_size}, which must be a multiple of 4 and of"
            f" num_attention_heads={heads}"
        )
    encoder = Encoder(hidden_size, depth, heads, patch_size, mlp_ratio=intermediate / hidden_size)
    return encoder, (height, width), channels


def _pair(value: Any) -> tuple[int, int]:
    first, second = value if isinstance(value, list) else (value, value)
    return int(first), int(second)


def _processor(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    return PROCESSOR_DEFAULT | (read_json(path) if path.is_file() else {})


def _normalization(
    folder: pathlib.Path, config: Mapping[str, Any], processor: Mapping[str, Any], hints: Hints
) -> tuple[Any, Any]:
    """Mean and deviation, as far as the folder tells."""
    default = all(processor[key] == value for key, value in PROCESSOR_DEFAULT.items())
    if not default or MARK in config or config["num_channels"] != len(IJEPA.mean):
        return processor["image_mean"], processor["image_std"]
    if hints.mean is None or hints.std is None:
        warnings.warn(
            f"{folder}: pixels are normalised with ImageNet's mean and deviation, with which the"
            " released I-JEPA was trained, and not with the .5 of transformers' default; mean and"
            " std say otherwise",
            stacklevel=2,
        )
    return IJEPA.mean, IJEPA.std


def _view(
    size: tuple[int, int], channels: int, processor: Mapping[str, Any], mark: Mapping[str, Any]
) -> EvalView:
    """The centre crop that we noted, else the processor's where it is like ours, or the usual."""
    if "eval_crop" in mark:
        resizer = mark.get("resizer", EvalView.resizer)  # which older folders do not tell
        return EvalView(size, channels, mark["eval_crop"], mark["interpolation"], resizer)
    match processor:
        case {"size": {"shortest_edge": int(edge)}, "resample": int(resample)} if edge >= max(size):
            names = {int(filter): name for name, filter in FILTERS.items()}
            return EvalView(size, channels, max(size) / edge, names.get(resample, "bilinear"))
    return EvalView(size, channels)


def _config(pretrained: Pretrained) -> dict[str, Any]:
    encoder, view = pretrained.backbone.encoder, pretrained.view
    height, width = view.size
    return {
        "architectures": ["IJepaModel"],
        "model_type": MODEL_TYPE,
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.width * encoder.mlp_ratio),
        "image_size": height if height == width else [height, width],
        "patch_size": encoder.patch_size,
        "num_channels": view.channels,
        **BUILT_IN,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
        MARK: {
            "version": jepa_jax.__version__,
            "encoder": pretrained.part,
            "eval_crop": view.share,
            "interpolation": view.interpolation,
            "resizer": view.resizer,
        },
    }


def _preprocessor(pretrained: Pretrained) -> dict[str, Any]:
    """Resize so that the crop is `view.share` of the image, crop, normalise as in training.

    For images that are not square it knows no such resize but one that stretches.
    """
    view = pretrained.view
    height, width = view.size
    larger = {"height": round(height / view.share), "width": round(width / view.share)}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": view.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": larger["height"]} if height == width else larger,
        "resample": int(FILTERS[view.interpolation]),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pretrained.backbone.mean),
        "image_std": list(pretrained.backbone.std),
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
