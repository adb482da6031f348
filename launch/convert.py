"""Takes trained encoders to other implementations.

    python launch/convert.py hf --checkpoint=runs/digits --out=digits_hf
    python launch/convert.py hf --checkpoint=IN1K-vit.h.14-300e.pth.tar --out=vith14_hf
    python launch/convert.py reference --checkpoint=runs/vith14 --out=vith14.pth.tar

hf: a folder for Hugging Face's IJepaModel, with weights, config, image processor and model card.
reference: a checkpoint of a run for the published PyTorch code to go on with, optimizer included.
The checkpoint is whatever `jepa_jax.load` reads. Exit codes: 0 finished, 2 wrong input, 74
a file can't be read or written.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's folder, .pth.tar file or folder.")
OUT = flags.DEFINE_string("out", None, "Folder (hf) or file (reference) to write.")
ENCODER = flags.DEFINE_enum("encoder", "target", ["target", "context"], "hf: which to take.")
HEADS = flags.DEFINE_integer("heads", None, "hf: of the attention, if the file doesn't tell.", 1)
MEAN = flags.DEFINE_list("mean", None, "hf: of the pixels in training (0..1), if not told.")
STD = flags.DEFINE_list("std", None, "hf: their standard deviation.")


def main(kind: str) -> None:
    from jepa_jax.errors import UserError
    from jepa_jax.interop.convert import to_huggingface, to_reference

    if not CHECKPOINT.value or not OUT.value:
        raise UserError("say what to read and to write: --checkpoint=runs/digits --out=digits_hf")
    if kind == "reference":
        to_reference(CHECKPOINT.value, OUT.value)
    else:
        to_huggingface(
            CHECKPOINT.value,
            OUT.value,
            encoder=ENCODER.value,
            heads=HEADS.value,
            mean=MEAN.value,
            std=STD.value,
        )


if __name__ == "__main__":
    cli.run(main, words=("hf", "reference"))
