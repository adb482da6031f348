"""Folders of timm's vision transformers, whose tensors have the reference's names: read only."""

import os
import pathlib

import numpy as np

from jepa_jax.data.resizing import FILTERS
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.ijepa import IJEPA
from jepa_jax.interop.architecture import Hints, infer_encoder, infer_grid
from jepa_jax.interop.layout import read
from jepa_jax.interop.reference import encoder_layout, encoder_shapes
from jepa_jax.interop.safetensors_files import read_json, read_weights
from jepa_jax.pretrained import Backbone, Pretrained


def read_timm(folder: os.PathLike, hints: Hints) -> Pretrained:
    """The encoder of a folder with timm's config.json and model.safetensors.

    Its I-JEPA is `vit_huge_patch14_gap_224.in1k_ijepa` and its like, made of the context encoder.
    Positions that are not sine-cosine, as after fine-tuning, become a parameter of the encoder.

    Raises:
      UserError: if the folder holds another model or a damaged one; names every misfit.
    """
    folder = pathlib.Path(folder)
    config = read_json(folder / "config.json")
    told = config.get("pretrained_cfg") or {}
    try:
        tensors = read_weights(folder)
        encoder, channels = infer_encoder(tensors, hints)
        if "cls_token" in tensors:
            raise UserError(
                "it has a class token, which I-JEPA's encoder has not: take a model without one,"
                " such as vit_huge_patch14_gap_224.in1k_ijepa"
            )
        grid, sincos = infer_grid(tensors.get("pos_embed", np.zeros(())))
        if not sincos:
            encoder = encoder.clone(positions="learned")
        mean, std = hints.normalization(
            channels, told.get("mean", IJEPA.mean), told.get("std", IJEPA.std)
        )
        layout = encoder_layout(encoder, channels, grid)
        shapes = encoder_shapes(encoder, channels, grid)
        params = read(tensors, layout, shapes, f"a plain {config.get('architecture')}")
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    size = tuple(side * encoder.patch_size for side in grid)
    share, filter = told.get("crop_pct") or EvalView.share, told.get("interpolation")
    view = EvalView(size, channels, share, filter if filter in FILTERS else EvalView.interpolation)
    return Pretrained(Backbone(encoder, mean, std), params, view, about={"source": folder.name})
