"""One process of several that train together: prints each step's loss and images, exactly.

    run_steps.py WORKDIR PROCESS PROCESSES PORT LAST_STEP

Goes on after the newest checkpoint in WORKDIR and leaves one after LAST_STEP.
"""

import hashlib
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax.config import mask_spec
from jepa_jax.data.broken import Broken
from jepa_jax.parallel.sharding import batch_sharding
from jepa_jax.training import loop
from jepa_jax.training.batches import train_batches
from jepa_jax.training.setup import jit_step
from tests.tiny import tiny


def shared_recipe() -> ConfigDict:
    """With a batch, and parameters, that four devices can share."""
    c = tiny()
    c.data.test_split = ""
    c.data.image_size = (16, 16)
    c.model.patch_size = 4
    c.model.depth = 2
    c.train.batch_size = 32
    c.train.epochs = 1.0
    c.mesh.fsdp = 2
    return c


def main(workdir: str, last: int):
    run = loop.prepare(shared_recipe(), workdir)
    state, start = loop.restore(run)
    start = start.step
    step = jit_step(run.sharding)
    everywhere = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(run.mesh, jax.P()))
    batches = train_batches(
        run.loader,
        mask_spec(run.config),
        seed=run.config.seed,
        start=start,
        sharding=batch_sharding(run.mesh),
        broken=Broken(run.loader.source, 0.0, lambda example: None, print),
    )
    for number in range(start, last):
        batch = next(batches)
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(everywhere(batch)):
            digest.update(np.asarray(leaf).tobytes())
        with jax.set_mesh(run.mesh):
            state, metrics = step(run.model, state, batch)
        print("STEP", number, float(metrics.loss).hex(), digest.hexdigest(), flush=True)
    batches.close()
    run.checkpoints.save(last, state, run.about | {"course": {}})
    run.checkpoints.wait()


if __name__ == "__main__":
    process, processes, port, last = map(int, sys.argv[2:])
    # A single process too: sums over devices then run in the same order, by the same library.
    jax.distributed.initialize(f"localhost:{port}", processes, process)
    main(sys.argv[1], last)
