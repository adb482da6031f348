"""One round of our input: image files to batches of crops on the host.

    python -m jepa_jax.benchmark.input FOLDER WORKERS SECONDS SIZE BATCH

Prints a JSON object, as every contender of `jepa_jax.benchmark.data` does.
"""

import json
import sys

from jepa_jax.benchmark.data import measure
from jepa_jax.config import defaults
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import open_source


def main(folder: str, workers: int, seconds: float, size: int, batch_size: int) -> None:
    data = defaults().data
    data.path, data.image_size = folder, (size, size)
    data.workers, data.threads, data.flip = workers, 1, True
    source = open_source(data, "train")
    batches = TrainBatches(source, data, seed=0, batch_size=batch_size).iterate()
    print(json.dumps(measure(batches, lambda batch: batch["images"].shape, seconds)))
    batches.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
