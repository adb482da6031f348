"""Weights in the safetensors format, as NumPy arrays."""

import json
import pathlib

import numpy as np

from jepa_jax.errors import UserError
from jepa_jax.interop.extras import extra

FILE = "model.safetensors"


def read_weights(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder with `model.safetensors`, or with several files and their index.

    Raises:
      UserError: if there are none, or a file is damaged; does not name the folder.
    """
    files, index = [FILE], folder / f"{FILE}.index.json"
    if index.is_file():
        files = sorted(
            {str(file) for file in dict(read_json(index).get("weight_map", {})).values()}
        )
    tensors = {}
    for file in files:
        path = folder / file
        if not path.is_file():
            raise UserError(f"there is no {file}, and weights are read from that format only")
        try:
            tensors |= extra("safetensors.numpy").load_file(path)
        except extra("safetensors").SafetensorError as error:
            raise UserError(f"{file} is damaged ({error}): copy it again") from None
    return tensors


def write_weights(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    """Raises OSError if that can't be done."""
    path.touch()
    mode = path.stat().st_mode
    try:
        # Transformers refuses files that do not name their framework.
        extra("safetensors.numpy").save_file(tensors, path, metadata={"format": "pt"})
    except extra("safetensors").SafetensorError as error:
        raise OSError(str(error)) from None
    path.chmod(mode)  # as any other file's; it would be for its owner only


def read_json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
