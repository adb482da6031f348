"""Encoder and predictor in the names and layouts of the published PyTorch code.

Its positions are parameters that are not trained: they must be the ones that are computed here.
timm's vision transformers have the same names.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jepa_jax.interop.layout import Fixed, Layout, Tensor, linear, norm, patch_embedding
from jepa_jax.models.positions import sincos_2d
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.vit import Encoder

Grid = tuple[int, int]  # rows and columns of patches


def without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Names without the `module.` that PyTorch's data parallelism puts before all of them."""
    if not all(name.startswith("module.") for name in tensors):
        return dict(tensors)
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def encoder_layout(encoder: Encoder, channels: int, grid: Grid) -> Layout:
    """In the order of the reference's `named_parameters`, which its optimizer state follows."""
    return [
        encoder_positions("pos_embed", encoder, grid),
        *patch_embedding("patch_embed.proj", encoder.width, channels, encoder.patch_size),
        *_transformer(encoder, "blocks", "norm"),
    ]


def predictor_layout(predictor: Predictor, encoder_width: int) -> Layout:
    """In the order of the reference's `named_parameters`."""
    width = predictor.width
    return [
        Tensor("mask_token", (1, 1, width), "mask_token"),
        _sincos("predictor_pos_embed", width, predictor.grid),
        *linear("predictor_embed", "embed", width, encoder_width),
        *_transformer(predictor, "predictor_blocks", "predictor_norm"),
        *linear("predictor_proj", "output", predictor.output_width, width),
    ]


def encoder_positions(name: str, encoder: Encoder, grid: Grid) -> Tensor | Fixed:
    """The line of a layout for positions (1, N, D): fixed, or a parameter of the encoder."""
    if encoder.positions == "learned":
        return Tensor(name, (1, grid[0] * grid[1], encoder.width), "positions")
    return _sincos(name, encoder.width, grid)


def encoder_shapes(encoder: Encoder, channels: int, grid: Grid) -> Any:
    """The tree of an encoder's parameters, as shapes."""
    rows, columns = (side * encoder.patch_size for side in grid)
    image = jnp.zeros((1, rows, columns, channels))
    return jax.eval_shape(encoder.init, jax.random.key(0), image)["params"]


def _sincos(name: str, width: int, grid: Grid) -> Fixed:
    what = f"the positions of a grid of {grid[0]}×{grid[1]}"
    return Fixed(name, sincos_2d(width, *grid)[None], what)


def _transformer(module: Encoder | Predictor, blocks: str, last_norm: str) -> list[Tensor]:
    lines = [line for i in range(module.depth) for line in _block(module, f"{blocks}.{i}", (i,))]
    return lines + norm(last_norm, "transformer/norm", module.width)


def _block(module: Encoder | Predictor, name: str, part: tuple[int]) -> list[Tensor]:
    path, width, heads = "transformer/blocks", module.width, module.heads
    hidden, each = round(width * module.mlp_ratio), width // heads
    qkv, projection = f"{path}/attention/qkv", f"{path}/attention/projection"
    return [
        *norm(f"{name}.norm1", f"{path}/norm_attention", width, part),
        Tensor(
            f"{name}.attn.qkv.weight",
            (3 * width, width),
            f"{qkv}/kernel",
            part,
            split=(3, heads, each, width),
            axes=(3, 1, 0, 2),
        ),
        Tensor(
            f"{name}.attn.qkv.bias",
            (3 * width,),
            f"{qkv}/bias",
            part,
            split=(3, heads, each),
            axes=(1, 0, 2),
        ),
        *linear(f"{name}.attn.proj", projection, width, width, part),
        *norm(f"{name}.norm2", f"{path}/norm_mlp", width, part),
        *linear(f"{name}.mlp.fc1", f"{path}/mlp/hidden", hidden, width, part),
        *linear(f"{name}.mlp.fc2", f"{path}/mlp/output", width, hidden, part),
    ]
