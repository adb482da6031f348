"""Our training step as a contender.

    python -m jepa_jax.benchmark.ours CONFIG

where the file CONFIG is a pickled recipe. Speaks what `jepa_jax.benchmark.contender` does.
"""

import functools
import pathlib
import pickle
import sys
import time
from contextlib import closing

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa, masks
from jepa_jax.benchmark.contender import largest_memory, serve, time_steps
from jepa_jax.benchmark.peaks import measured_peak, sheet_peak
from jepa_jax.benchmark.step import COARSER
from jepa_jax.config import mask_spec, mesh_shape
from jepa_jax.data.broken import Broken
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import open_source
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.flops import step_flops
from jepa_jax.parallel.host_memory import keep_freed_memory
from jepa_jax.parallel.sharding import batch_sharding, make_mesh, tree_sharding
from jepa_jax.training.batches import to_devices, train_batches
from jepa_jax.training.changes import differing
from jepa_jax.training.ledger import Ledger
from jepa_jax.training.rate import IN_FLIGHT, Rate
from jepa_jax.training.setup import build_model, jit_step, purpose_key
from jepa_jax.validation import validate

STEPS_PER_EPOCH = 1000  # of schedules that are of no account here


class Training:
    """A recipe's state and compiled step, on all devices, with noise for images."""

    def __init__(self, config: ConfigDict):
        self.config = config
        validate(config, jax.device_count())
        self.mesh = make_mesh(mesh_shape(config, jax.device_count()))
        self.model = build_model(config, STEPS_PER_EPOCH)
        image = (*config.data.image_size, config.data.channels)
        size = (config.train.batch_size, *image)
        self._images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
        self._spec, self._sharding = mask_spec(config), batch_sharding(self.mesh)
        with masks.on_host():
            self._key = purpose_key(config.seed, "masks")
        init = functools.partial(ijepa.init, self.model, jax.random.key(0), image)
        sharding = tree_sharding(jax.eval_shape(init), self.mesh)
        self.state = jax.jit(init, out_shardings=sharding)()
        self._step = jit_step(sharding)
        self._number, self._losses = 0, []
        batch = self.batch()
        began = time.monotonic()
        with jax.set_mesh(self.mesh):
            self._step.lower(self.model, self.state, batch).compile()
        self.compile_seconds = time.monotonic() - began
        self.step()
        self.wait()

    def batch(self) -> ijepa.Batch:
        """As `training.batches` makes it, but for the images, which are always the same."""
        with masks.on_host():
            key = jax.random.fold_in(self._key, self._number)
        draws = self.config.train.draws
        drawn = masks.sample(key, self._spec, len(self._images), draws=draws)
        return to_devices(ijepa.Batch(self._images, drawn), self._sharding)

    def step(self, batch: ijepa.Batch | None = None) -> jax.Array:
        """Sends a step off, as far ahead of the devices as a run would; its loss."""
        batch = self.batch() if batch is None else batch
        with jax.set_mesh(self.mesh):
            self.state, metrics = self._step(self.model, self.state, batch)
        self._number += 1
        self._losses.append(metrics.loss)
        if len(self._losses) > IN_FLIGHT:
            self._losses.pop(0).block_until_ready()
        return metrics.loss

    def wait(self) -> None:
        jax.block_until_ready(self.state)

    def round(self, steps: int) -> dict[str, float]:
        took = time_steps(self.step, self.wait, steps)
        stats = jax.devices()[0].memory_stats() or {}
        took["peak_bytes"] = stats.get("peak_bytes_in_use") or largest_memory()
        return took | {"measured_peak": measured_peak(self.config.model.dtype)}

    def input(self, steps: int) -> dict[str, float]:
        """Training on the recipe's own images, as `training.loop` feeds itself.

        Raises:
          UserError: if they are not there, or cannot be read.
        """
        config = self.config
        source = open_source(config.data, config.data.train_split)
        loader = TrainBatches(
            source, config.data, seed=config.seed, batch_size=config.train.batch_size
        )
        rate = Rate(config.train.batch_size, Ledger(lambda *_, **__: None))
        broken = Broken(source, config.data.broken_share, EvalView.of(config.data), lambda _: None)
        batches = train_batches(
            loader,
            self._spec,
            seed=config.seed,
            start=0,
            sharding=self._sharding,
            draws=config.train.draws,
            broken=broken,
            waiting=rate.waiting,
        )
        with closing(batches):
            for _ in range(steps + 1):  # the first fills the pipeline and does not count
                rate.tick(self.step(next(batches)))
            return rate.measure()

    def about(self) -> dict:
        """What the work is, for a peer to be held against it."""
        drawn, device = self.batch().masks, jax.devices()[0].device_kind
        return {
            "device": device,
            "devices": self.mesh.size,
            "dtype": self.config.model.dtype,
            "coarser": {key: at for key, at in differing(self.config).items() if key in COARSER},
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.state.params)),
            "images": list(self._images.shape),
            "context": list(drawn.context.shape),
            "targets": list(drawn.targets.shape),
            "flops": step_flops(self.config),
            "sheet_peak": sheet_peak(device, self.config.model.dtype),
            "compile_seconds": self.compile_seconds,
        }


def main(path: str) -> None:
    keep_freed_memory()
    try:
        training = Training(pickle.loads(pathlib.Path(path).read_bytes()))
        actions = {"steps": training.round, "input": training.input}
        serve(training.about(), actions, sys.stdin)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
