"""From one implementation's files to another's, and a line that says what came of it."""

import os

from jepa_jax.interop.huggingface import refuse_overwriting, write_huggingface
from jepa_jax.interop.load import load
from jepa_jax.interop.released import write_released


def to_huggingface(
    checkpoint: str,
    folder: str,
    *,
    encoder: str = "target",
    heads: int | None = None,
    mean: list[str] | None = None,
    std: list[str] | None = None,
) -> None:
    """What `load` reads becomes a folder for `IJepaModel.from_pretrained`."""
    folder = os.path.expanduser(folder)
    refuse_overwriting(folder)  # before the work
    found = load(checkpoint, encoder, heads=heads, mean=mean, std=std)
    write_huggingface(found, folder)
    part = f"the {found.part} encoder" if found.part else "the encoder"
    print(f"{folder} holds {part} of {checkpoint} for transformers' AutoModel.from_pretrained")


def to_reference(checkpoint: str, file: str) -> None:
    """A run's checkpoint becomes one that the published PyTorch code goes on with."""
    file = os.path.expanduser(file)
    epoch = write_released(checkpoint, file)
    print(f"{file} holds {checkpoint}; the published PyTorch code goes on after epoch {epoch}")
