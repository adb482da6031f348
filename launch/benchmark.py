"""Measures how fast things are, next to peers on the same machine.

    python launch/benchmark.py step --config=configs/vitb16.py --config.train.batch_size=256 \\
      --peer=torch --out=step.jsonl
    python launch/benchmark.py step --config=configs/vitb16.py --config.train.batch_size=256 \\
      --compare=step.jsonl
    python launch/benchmark.py scaling --config=configs/digits.py --over=tokens
    python launch/benchmark.py attention --config=configs/vitb16.py --shape=8,196,12,768
    python launch/benchmark.py masks --config=configs/vitl16.py
    python launch/benchmark.py data --config=configs/vitb16.py --workers=2 --peer=torch
    python launch/benchmark.py checkpoint --config=configs/vitb16.py --config.train.batch_size=64
    python launch/benchmark.py gpu --peer=torch --coarser --out=gpu.jsonl

step: the recipe's training step on noise: images/s, MFU, compile time, memory, host time (but on
  a CPU); and how long it waits for the recipe's own images.
scaling: the step as batch, tokens, depth or devices grow.
attention: implementations, at the shape of the recipe's target encoder or another.
masks: drawing them, and its share of a step.
data: JPEG files of 500×375, made from the recipe's images, to batches of random crops.
checkpoint: a training step on noise with and without checkpoints, events and watchdog; a save, a
  restore.
gpu: all there is to tell of one GPU: ViT-B/16, L/16 and H/14 (or --config), each side at the batch
  with which it is fastest, MFU, memory, hours of the recipe. Goes on after what --out holds.
"""

import pathlib

from jepa_jax import cli
from jepa_jax.cli import config_flags, flags

RECIPES = ("vitb16", "vitl16", "vith14")  # of gpu

CONFIG = cli.config_flag()
ROUNDS = flags.DEFINE_integer("rounds", 5, "Of each contender, one after the other.", 1)
PEER = flags.DEFINE_enum("peer", None, ["torch"], "step, data: compare with it.")
OUT = flags.DEFINE_string("out", None, "File for the JSON lines that are also printed.")
COMPARE = flags.DEFINE_string("compare", None, "step: a file of an earlier --out.")
STEPS = flags.DEFINE_integer(
    "steps", None, "Of a round; step, scaling: 5, checkpoint: 100, gpu: 10.", 1
)
OVER = flags.DEFINE_enum("over", "batch", ["batch", "tokens", "depth", "devices"], "scaling.")
SHAPE = flags.DEFINE_list("shape", None, "attention: B,N,H,D; without it, the recipe's.")
CHIP = flags.DEFINE_string("chip", "NVIDIA H100", "masks: of the step to hold them against.")
CHIPS = flags.DEFINE_integer("chips", 8, "masks: how many do that step.", 1)
MFU = flags.DEFINE_float("mfu", 0.5, "masks: share of their peak that it reaches.", 0.01, 1.0)
IMAGES = flags.DEFINE_integer("images", 4096, "data: how many files.", 1)
WORKERS = flags.DEFINE_integer("workers", 1, "data: processes that decode them.", 0)
SECONDS = flags.DEFINE_float("seconds", 10.0, "data, masks: of a round.", 0.1)
EVERY = flags.DEFINE_integer("every", 50, "checkpoint: steps between two.", 1)
SMALLEST = flags.DEFINE_integer("smallest", 16, "gpu: batch that is tried first, then twice it.", 1)
LARGEST = flags.DEFINE_integer("largest", 2048, "gpu: batch that is tried last, if it fits.", 1)
COARSER = flags.DEFINE_bool(
    "coarser", False, "gpu: also ours with sums in bfloat16 and target products in float8."
)
FOLDER = flags.DEFINE_string("folder", None, "checkpoint: on the disk to measure.")


def main(what: str) -> None:
    import json
    import tempfile

    from jepa_jax.benchmark.contender import Unfinished
    from jepa_jax.errors import UserError
    from jepa_jax.training.workdir import storage_of

    if CONFIG.value is None and what != gpu.__name__:
        raise UserError("give a recipe: --config=configs/vitb16.py")
    if out := path_of(OUT):
        with storage_of(out):  # before the work
            out.parent.mkdir(parents=True, exist_ok=True)
    with storage_of(FOLDER.value):
        folder = tempfile.TemporaryDirectory(dir=path_of(FOLDER))

    def write(rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        print(lines, end="")
        if out:
            with storage_of(out):
                out.write_text(lines)

    with folder as name:
        try:
            rows, report = MEASURES[what](CONFIG.value, pathlib.Path(name))
        except Unfinished as error:
            write(error.rows)
            raise
    write(rows)
    report(rows)


def path_of(flag):
    """Where --FLAG=~/… is; None without it."""
    from jepa_jax.training.storage import local_path

    return local_path(flag.value, f"--{flag.name}") if flag.value else None


def step(config, folder):
    from jepa_jax.benchmark.step import compare
    from jepa_jax.benchmark.step_report import read, report, report_change

    before = read(path_of(COMPARE)) if COMPARE.value else []
    peer, steps = PEER.value is not None, STEPS.value or 5
    rows = compare(config, folder, steps=steps, rounds=ROUNDS.value, peer=peer, before=before)

    def tell(rows):
        report(rows)
        if before:
            report_change(before, rows)

    return rows, tell


def scaling(config, folder):
    from jepa_jax.benchmark.scaling import measure, report

    steps, rounds = STEPS.value or 5, ROUNDS.value
    return measure(config, folder, over=OVER.value, steps=steps, rounds=rounds), report


def attention(config, folder):
    from jepa_jax.benchmark.attention import measure, report, shape_of

    shape = shape_of(config, SHAPE.value)
    return measure(shape, config.model.dtype, ROUNDS.value), report


def masks(config, folder):
    from jepa_jax.benchmark.masks import measure, report

    step = {"chip": CHIP.value, "chips": CHIPS.value, "mfu": MFU.value}
    return measure(config, rounds=ROUNDS.value, seconds=SECONDS.value, **step), report


def data(config, folder):
    import functools

    from jepa_jax.benchmark.data import compare, report

    rows = compare(
        config,
        folder,
        images=IMAGES.value,
        workers=WORKERS.value,
        seconds=SECONDS.value,
        rounds=ROUNDS.value,
        peer=PEER.value is not None,
    )
    return rows, functools.partial(report, workers=max(1, WORKERS.value))


def checkpoint(config, folder):
    from jepa_jax.benchmark.checkpoint import measure, report

    steps, every, rounds = STEPS.value or 100, EVERY.value, ROUNDS.value
    return measure(config, folder, steps=steps, every=every, rounds=rounds), report


def gpu(config, folder):
    import functools
    import runpy

    from jepa_jax.benchmark.gpu_report import measure_each, report

    if config is None:
        found = pathlib.Path(__file__).resolve().parents[1] / "configs"
        recipes = {name: runpy.run_path(f"{found / name}.py")["get_config"]() for name in RECIPES}
    else:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        recipes = {pathlib.Path(path.split(":")[0]).stem: config}
    rows = measure_each(
        recipes,
        folder,
        path_of(OUT) or folder / "gpu.jsonl",
        smallest=SMALLEST.value,
        largest=LARGEST.value,
        steps=STEPS.value or 10,
        rounds=ROUNDS.value,
        peer=PEER.value is not None,
        coarser=COARSER.value,
    )
    return rows, functools.partial(report, recipes=recipes)


MEASURES = {
    each.__name__: each for each in (step, scaling, attention, masks, data, checkpoint, gpu)
}

if __name__ == "__main__":
    cli.run(main, words=tuple(MEASURES))
