"""The PyTorch step as a contender: speaks what `jepa_jax.benchmark.contender` does.

    python torch_step.py SETUP.json MASKS.npz plain|best

Its masks are drawn beforehand, as its loader's workers would. So are the images of "plain"
normalised; "best" gets bytes, a fourth to send, and normalises them on the device.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch

from jepa_jax.benchmark.contender import largest_memory, serve, time_steps

# Not as tests.peers: the file is run by its path.
sys.path[:0] = [str(pathlib.Path(__file__).parent)]
from torch_ijepa import Batch, Sizes, Trainer, normalised  # noqa: E402

SCHEDULE = {"learning_rate": 1e-4, "weight_decay": 0.04, "momentum": 0.996}


class Training:
    def __init__(self, setup: dict, masks: dict[str, np.ndarray], best: bool):
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cuda":  # as ours multiplies float32: XLA's default on GPUs
            torch.set_float32_matmul_precision("high")
        sizes = Sizes(**setup["sizes"] | {"grid": tuple(setup["sizes"]["grid"])})
        rows, columns = (side * sizes.patch_size for side in sizes.grid)
        torch.manual_seed(0)
        size = len(masks["context"]), sizes.channels, rows, columns
        images = torch.randint(256, size, dtype=torch.uint8)
        self._host = Batch(
            images if best else normalised(images),
            *(torch.from_numpy(masks[name].astype(np.int64)) for name in ("context", "targets")),
        )
        if self._device == "cuda":
            self._host = Batch(*(x.pin_memory() for x in self._host))
        self._dtype = setup["dtype"]
        self._trainer = Trainer(
            sizes,
            best=best,
            compiled=best,
            dtype=getattr(torch, self._dtype),
            device=self._device,
        )
        began = time.monotonic()
        self.step()
        self.wait()
        self._compile_seconds = time.monotonic() - began

    def step(self) -> None:
        batch = Batch(*(x.to(self._device, non_blocking=True) for x in self._host))
        self._trainer.step(batch, **SCHEDULE)

    def wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def round(self, steps: int) -> dict[str, float]:
        took = time_steps(self.step, self.wait, steps)
        cuda = self._device == "cuda"
        return took | {
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else largest_memory()
        }

    def about(self) -> dict:
        images, context, targets = self._host
        networks = self._trainer.encoder, self._trainer.predictor
        return {
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
            "devices": 1,
            "dtype": self._dtype,
            "parameters": sum(p.numel() for network in networks for p in network.parameters()),
            "images": list(images.permute(0, 2, 3, 1).shape),
            "context": list(context.shape),
            "targets": list(targets.shape),
            "compile_seconds": self._compile_seconds,  # with the first step
        }


def main(setup: str, masks: str, style: str) -> None:
    training = Training(
        json.loads(pathlib.Path(setup).read_text()), dict(np.load(masks)), style == "best"
    )
    serve(training.about(), {"steps": training.round}, sys.stdin)


if __name__ == "__main__":
    main(*sys.argv[1:])
