"""From one implementation's files to another's, and a line that says what came of it."""

from jepa_jax.interop.huggingface import refuse_overwriting, write_huggingface
from jepa_jax.interop.load import load
from jepa_jax.interop.released import write_released
from jepa_jax.training.storage import local_path


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
    out = local_path(folder)
    refuse_overwriting(out)  # before the work
    found = load(checkpoint, encoder, heads=heads, mean=mean, std=std)
    write_huggingface(found, out)
    part = f"the {found.part} encoder" if found.part else "the encoder"
    print(f"{out} holds {part} of {checkpoint} for transformers' AutoModel.from_pretrained")


def to_reference(checkpoint: str, file: str) -> None:
    """A run's checkpoint becomes one that the published PyTorch code goes on with."""
    out = local_path(file)
    epoch = write_released(checkpoint, out)
    print(f"{out} holds {checkpoint}; the published PyTorch code goes on after epoch {epoch}")
