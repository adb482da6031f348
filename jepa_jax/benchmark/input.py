"""One round of our input: image files to batches of crops on the host.

    python -m jepa_jax.benchmark.input FOLDER WORKERS SECONDS SIZE BATCH [exact|fast]

Prints a JSON object, as every contender of `jepa_jax.benchmark.data` does.
"""

import json
import sys

from jepa_jax.benchmark.data import measure
from jepa_jax.config import defaults
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import open_source


def main(folder: str, workers: str, seconds: str, size: str, batch: str, resizer: str = "exact"):
    data = defaults().data
    data.path, data.image_size = folder, (int(size), int(size))
    data.workers, data.threads, data.flip = int(workers), 1, True
    data.resizer = resizer
    source = open_source(data, "train")
    batches = TrainBatches(source, data, seed=0, batch_size=int(batch)).iterate()
    print(json.dumps(measure(batches, lambda batch: batch["images"].shape, float(seconds))))
    batches.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
