"""How fast files become batches: ours beside a PyTorch DataLoader, in alternating rounds."""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from rich.table import Table

from jepa_jax.benchmark.contender import keeping
from jepa_jax.data.decoding import decode
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError

PHOTO = (500, 375)  # pixels (width, height), ImageNet's most frequent size
QUALITY = 90
PEER = pathlib.Path(__file__).parents[2] / "tests" / "peers" / "torch_data.py"


def compare(
    config: ConfigDict,
    folder: pathlib.Path,
    *,
    images: int,
    workers: int,
    seconds: float,
    rounds: int,
    peer: bool,
) -> list[dict[str, Any]]:
    """Rounds of each contender, one after the other, so that a busy machine slows all of them.

    The images are the recipe's, enlarged to photos of 500×375 and saved as JPEG, so that small
    ones serve too. Every contender decodes them, takes random resized crops of the recipe's size
    and mirrors half of them, in as many worker processes, a core each. "fast" is
    `data.resizer="fast"`. "torch" gives the normalised floats that training in PyTorch wants of its
    input, where ours normalises on the device; "torch uint8" leaves that out.

    Returns:
      A row for each round: contender, images_per_second, worker_mb.

    Raises:
      UserError: if one fails; `Unfinished` after some rounds.
    """
    write_photos(config, folder, images)
    size = str(config.data.image_size[0])
    batch = str(min(64, images))
    arguments = [str(folder), str(workers), str(seconds), size, batch]
    ours = [sys.executable, "-m", "jepa_jax.benchmark.input", *arguments]
    contenders = {"jepa_jax": ours}
    if importlib.util.find_spec("cykooz_resizer"):
        contenders["jepa_jax fast"] = [*ours, "fast"]
    if peer:
        contenders["torch"] = [sys.executable, str(PEER), *arguments]
        contenders["torch uint8"] = [sys.executable, str(PEER), *arguments, "uint8"]
    # One thread of mathematics a worker, as both loaders want it.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    rows = []
    with keeping(rows):
        for name, command in list(contenders.items()) * rounds:
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                why = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
                raise UserError(f"{name} failed: {why[-1]}")
            rows.append({"contender": name, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def report(rows: list[dict[str, Any]], workers: int) -> None:
    """A table of medians, with the spread and the ratio to ours."""
    table = Table("", "images/s", "a worker", "lowest–highest", "ours is", "MB a worker")
    speeds = {}
    for row in rows:
        speeds.setdefault(row["contender"], []).append(row["images_per_second"])
    ours = statistics.median(speeds["jepa_jax"])
    for name, values in speeds.items():
        median = statistics.median(values)
        memory = statistics.median(row["worker_mb"] for row in rows if row["contender"] == name)
        table.add_row(
            name,
            f"{median:,.0f}",
            f"{median / workers:,.0f}",
            f"{min(values):,.0f}–{max(values):,.0f}",
            "" if name == "jepa_jax" else f"{ours / median:.2f}×",
            f"{memory:,.0f}",
        )
    Console().print(table)


def write_photos(config: ConfigDict, folder: pathlib.Path, count: int) -> None:
    """The first `count` images of the recipe (again and again if it has fewer) as JPEG files."""
    source = open_source(config.data, config.data.train_split)
    for i in range(count):
        pixels = decode(source[i % len(source)], 3)
        photo = Image.fromarray(pixels).resize(PHOTO, Image.Resampling.BICUBIC)
        photo.save(folder / f"{i:05}.jpg", quality=QUALITY)


def measure(
    batches: Iterator[Any], shape: Callable[[Any], tuple[int, ...]], seconds: float
) -> dict[str, float]:
    """Images a second of an endless iterator, once its workers are under way.

    Args:
      shape: of a batch; its first entry counts the images.
    """
    warm = time.monotonic() + seconds / 3
    while time.monotonic() < warm:
        next(batches)
    images, begin = 0, time.monotonic()
    while (elapsed := time.monotonic() - begin) < seconds:
        images += shape(next(batches))[0]
    return {"images_per_second": images / elapsed, "worker_mb": _largest_child()}


def _largest_child() -> float:
    """Memory of the largest child process in MB; pages that several share are split up."""
    largest = 0
    for task in pathlib.Path("/proc/self/task").glob("*/children"):
        for child in task.read_text().split():
            rollup = pathlib.Path(f"/proc/{child}/smaps_rollup").read_text()
            (pss,) = (line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
            largest = max(largest, int(pss))
    return largest / 1000
