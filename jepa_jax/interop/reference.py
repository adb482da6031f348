"""Parameters in the names and layouts of the published PyTorch code, and of its checkpoints.

Its matrices are (out, in), ours (in, out); its blocks have numbers, ours a leading depth axis;
its patches are flattened channels first, ours channels last. Positions are not parameters here:
those of a checkpoint are compared with ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jepa_jax.errors import UserError
from jepa_jax.models.positions import sincos_2d
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.vit import Encoder

POSITION_TOLERANCE = 1e-5


def import_encoder(
    tensors: Mapping[str, np.ndarray], encoder: Encoder, grid: tuple[int, int]
) -> dict[str, Any]:
    """Parameters of `encoder` from a state dict of the reference's encoder or target encoder.

    Args:
      tensors: name -> array, with or without the `module.` prefix of the released files.
      encoder: the module that they are for.
      grid: rows and columns of patches.

    Raises:
      UserError: naming every tensor that is missing, unknown or has another shape.
    """
    reader = _Reader(tensors, "encoder")
    width, size = encoder.width, encoder.patch_size
    kernel = reader.take("patch_embed.proj.weight", (width, None, size, size))
    params = {
        "patch_embed": {
            "kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, width),
            "bias": reader.take("patch_embed.proj.bias", (width,)),
        },
        "transformer": _transformer(reader, encoder, "blocks", "norm"),
    }
    reader.positions("pos_embed", width, grid)
    reader.finish()
    return params


def import_predictor(
    tensors: Mapping[str, np.ndarray], predictor: Predictor, encoder_width: int
) -> dict[str, Any]:
    """Parameters of `predictor` from a state dict of the reference's predictor; as above."""
    reader = _Reader(tensors, "predictor")
    width = predictor.width
    params = {
        "mask_token": reader.take("mask_token", (1, 1, width)),
        "embed": _dense(reader, "predictor_embed", encoder_width, width),
        "transformer": _transformer(reader, predictor, "predictor_blocks", "predictor_norm"),
        "output": _dense(reader, "predictor_proj", width, predictor.output_width),
    }
    reader.positions("predictor_pos_embed", width, predictor.grid)
    reader.finish()
    return params


class _Reader:
    """Takes tensors by name and keeps a list of what does not fit, to be told all at once."""

    def __init__(self, tensors: Mapping[str, np.ndarray], part: str):
        self.tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
        self.part = part
        self.taken: set[str] = set()
        self.complaints: list[str] = []

    def take(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """The float32 tensor of this name; where it does not fit, zeros and a complaint."""
        self.taken.add(name)
        wanted = tuple(1 if side is None else side for side in shape)
        if name not in self.tensors:
            self.complaints.append(f"{name} is missing")
            return np.zeros(wanted, np.float32)
        value = np.asarray(self.tensors[name])
        if value.ndim != len(shape) or any(
            side not in (None, actual) for side, actual in zip(shape, value.shape, strict=True)
        ):
            self.complaints.append(f"{name} is {value.shape}, not {wanted}")
            return np.zeros(wanted, np.float32)
        return value.astype(np.float32)

    def positions(self, name: str, width: int, grid: tuple[int, int]):
        ours = sincos_2d(width, *grid)[None]
        theirs = self.take(name, ours.shape)
        if theirs.any() and np.abs(ours - theirs).max() > POSITION_TOLERANCE:
            self.complaints.append(
                f"{name} holds other positions than a {grid[0]}×{grid[1]} grid's"
            )

    def finish(self):
        self.complaints += [f"{name} is unknown" for name in self.tensors.keys() - self.taken]
        if self.complaints:
            raise UserError(
                f"these weights are not of this {self.part}: " + "; ".join(sorted(self.complaints))
            )


def _transformer(reader: _Reader, module: Encoder | Predictor, blocks: str, norm: str) -> dict:
    width, hidden = module.width, round(module.width * module.mlp_ratio)
    each = []
    for i in range(module.depth):
        block = f"{blocks}.{i}"
        each.append(
            {
                "norm_attention": _norm(reader, f"{block}.norm1", width),
                "attention": {
                    "qkv": _qkv(reader, f"{block}.attn.qkv", width, module.heads),
                    "projection": _projection(reader, f"{block}.attn.proj", width, module.heads),
                },
                "norm_mlp": _norm(reader, f"{block}.norm2", width),
                "mlp": {
                    "hidden": _dense(reader, f"{block}.mlp.fc1", width, hidden),
                    "output": _dense(reader, f"{block}.mlp.fc2", hidden, width),
                },
            }
        )
    return {"blocks": _stack(each), "norm": _norm(reader, norm, width)}


def _stack(trees: list[dict]) -> dict:
    first = trees[0]
    return {
        name: _stack([tree[name] for tree in trees])
        if isinstance(first[name], dict)
        else np.stack([tree[name] for tree in trees])
        for name in first
    }


def _norm(reader: _Reader, name: str, width: int) -> dict:
    return {
        "scale": reader.take(f"{name}.weight", (width,)),
        "bias": reader.take(f"{name}.bias", (width,)),
    }


def _dense(reader: _Reader, name: str, inputs: int, outputs: int) -> dict:
    return {
        "kernel": reader.take(f"{name}.weight", (outputs, inputs)).T,
        "bias": reader.take(f"{name}.bias", (outputs,)),
    }


def _qkv(reader: _Reader, name: str, width: int, heads: int) -> dict:
    dense = _dense(reader, name, width, 3 * width)
    return {
        "kernel": dense["kernel"].reshape(width, 3, heads, -1).swapaxes(1, 2),
        "bias": dense["bias"].reshape(3, heads, -1).swapaxes(0, 1),
    }


def _projection(reader: _Reader, name: str, width: int, heads: int) -> dict:
    dense = _dense(reader, name, width, width)
    return {"kernel": dense["kernel"].reshape(heads, -1, width), "bias": dense["bias"]}
