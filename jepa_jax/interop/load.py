"""One door for every kind of trained encoder."""

import dataclasses
import os
from collections.abc import Sequence

from etils import epath

from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.interop.architecture import Hints
from jepa_jax.interop.huggingface import read_huggingface
from jepa_jax.interop.released import read_released
from jepa_jax.interop.runs import read_run
from jepa_jax.interop.safetensors_files import read_json
from jepa_jax.interop.timm import read_timm
from jepa_jax.pretrained import Pretrained

ENCODERS = ("target", "context")


def load(
    path: os.PathLike | str,
    encoder: str = "target",
    *,
    heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Pretrained:
    """A trained encoder, from one of:

    * a run's folder, or one of its `checkpoints/STEP`;
    * a checkpoint of the published PyTorch code, `.pth.tar`;
    * a folder of a Hugging Face `IJepaModel`, or of a vision transformer of timm.

    Args:
      encoder: "target", with which I-JEPA is evaluated, or "context". A folder of Hugging Face's or
        timm's holds one only; those that were made of the released files hold the context encoder.
      heads: of the attention, for files that do not tell; needed for unusual sizes only.
      mean, std: of the pixels (0..1) by channel that it was trained on, if other than is told or,
        where nothing is told, than ImageNet's.

    Raises:
      UserError: if there is no such thing, or it is damaged; names every tensor that does not fit.
    """
    if encoder not in ENCODERS:
        raise UserError(
            f"encoder={encoder!r} is none of {', '.join(ENCODERS)}{did_you_mean(encoder, ENCODERS)}"
        )
    hints = Hints(heads, mean, std)
    found = _read(epath.Path(path).expanduser(), encoder, hints)
    if found.part not in ("", encoder):
        raise UserError(f"{path} holds the {found.part} encoder only: say encoder={found.part!r}")
    backbone = found.backbone
    if heads not in (None, backbone.encoder.heads):
        raise UserError(f"{path} has {backbone.encoder.heads} heads, not heads={heads}")
    mean, std = hints.normalization(found.view.channels, backbone.mean, backbone.std)
    return dataclasses.replace(found, backbone=dataclasses.replace(backbone, mean=mean, std=std))


def _read(path: epath.Path, encoder: str, hints: Hints) -> Pretrained:
    if path.is_file():
        if path.suffix == ".safetensors":
            raise UserError(f"{path} tells no sizes: name the folder that it lies in")
        return read_released(path, encoder, hints)
    if not path.is_dir():
        raise UserError(f"{path} is not there: name a run's folder, a .pth.tar file or a folder")
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if "model_type" in config:
        return read_huggingface(path, hints)
    if "architecture" in config:
        return read_timm(path, hints)
    return read_run(path, encoder)
