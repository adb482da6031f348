"""The released ViT-H/14 with random weights: made, loaded, converted, held against transformers.

    python tests/peers/released_vith14.py FOLDER

Writes a file of 10 GB in the reference's layout and 2.5 GB for Hugging Face into FOLDER. Each part
is a process of its own, whose peak memory is printed.
"""

import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
FILE = "vith14.pth.tar"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)


def make(folder: pathlib.Path) -> None:
    """All three networks, moments of AdamW and what else lies in the released files."""
    import torch

    from jepa_jax.interop.layout import Fixed
    from jepa_jax.interop.reference import encoder_layout, predictor_layout
    from jepa_jax.models.predictor import Predictor
    from jepa_jax.models.vit import SIZES, Encoder

    width, depth, heads, _ = SIZES["vit_h"]
    predictor = Predictor(384, 12, heads, width, (16, 16))
    layouts = {
        "encoder": encoder_layout(Encoder(width, depth, heads, 14), 3, (16, 16)),
        "predictor": predictor_layout(predictor, width),
    }
    layouts["target_encoder"] = layouts["encoder"]
    torch.manual_seed(0)
    content, state, number = {}, {}, 0
    for part, layout in layouts.items():
        content[part] = {
            f"module.{line.name}": torch.tensor(line.value)
            if isinstance(line, Fixed)
            else 0.02 * torch.randn(line.shape) + line.name.endswith("norm.weight")
            for line in layout
        }
    for part in ("encoder", "predictor"):
        for tensor in content[part].values():
            # Memory that nothing is written to takes none.
            moments = {name: torch.empty(tensor.shape) for name in ("exp_avg", "exp_avg_sq")}
            state[number] = {"step": torch.tensor(1.0), **moments}
            number += 1
    groups = [{"params": list(range(number)), "lr": 1e-6}]
    rest = {"scaler": None, "epoch": 300, "loss": 0.2, "batch_size": 128, "world_size": 16, "lr": 0}
    torch.save(content | {"opt": {"state": state, "param_groups": groups}} | rest, folder / FILE)


def load(folder: pathlib.Path) -> None:
    """Both encoders' features of two images at 224×224 and at 448×448."""
    import jepa_jax

    for part in ("target", "context"):
        model = jepa_jax.load(folder / FILE, part)
        np.save(folder / f"{part}.npy", model.patch_features(IMAGES))
    print(model.features(IMAGES.repeat(2, 1).repeat(2, 2)).shape)


def convert(folder: pathlib.Path) -> None:
    from jepa_jax.interop.convert import to_huggingface

    to_huggingface(folder / FILE, folder / "hf")


def transformers(folder: pathlib.Path) -> None:
    """The folder there, strictly, and its hidden states beside ours."""
    import torch
    from transformers import AutoModel

    from jepa_jax.ijepa import IJEPA

    model, told = AutoModel.from_pretrained(folder / "hf", output_loading_info=True)
    assert not any(told.values()), told
    pixels = ((IMAGES / 255 - IJEPA.mean) / IJEPA.std).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(pixels).permute(0, 3, 1, 2)).last_hidden_state.numpy()
    ours = np.load(folder / "target.npy")
    print(f"largest difference {abs(ours - theirs).max():.1e} of values to {abs(theirs).max():.1f}")


PARTS = {function.__name__: function for function in (make, load, convert, transformers)}


def main(folder: str, *part: str) -> None:
    if part:
        start = time.monotonic()
        PARTS[part[0]](pathlib.Path(folder))
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{part[0]}: {time.monotonic() - start:.0f} s, {gigabytes:.1f} GiB at most")
    else:
        for name in PARTS:
            subprocess.run([sys.executable, __file__, folder, name], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
