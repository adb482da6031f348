"""How fast a recipe's training step is: ours beside a PyTorch step, in alternating rounds."""

import json
import pathlib
import pickle
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import masks
from jepa_jax.benchmark.contender import Contender, start_all, take_turns
from jepa_jax.config import architecture, grid, mask_spec
from jepa_jax.errors import UserError
from jepa_jax.training.changes import differing

PEER = pathlib.Path(__file__).parents[2] / "tests" / "peers" / "torch_step.py"
OURS = "jepa_jax"
STYLES = ("plain", "best")  # of the peer
# Of the same work, on the same machine: a torch may be one that does not see the GPU.
SAME = ("device", "devices", "dtype", "parameters", "images", "context", "targets")
# Numbers of ours that are coarser where they may be, of the same work; a peer has no such.
COARSER = {"model.residual": "bfloat16", "model.target_dtype": "float8_e4m3fn"}
PEER_DOES = {
    "targets": "features",
    "model.residual": "float32",
    "model.target_dtype": None,
    "predictor.one_pass": False,
    "train.draws": 1,
    "regularizer.variance": 0.0,
    "regularizer.covariance": 0.0,
}
INPUT_STEPS = 10  # on the recipe's own images


def compare(
    config: ConfigDict,
    folder: pathlib.Path,
    *,
    steps: int,
    rounds: int,
    peer: bool,
    before: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Rounds of steps of each contender, one after the other, so that all share a machine's moods.

    The peer gets the same shapes: images of the same size, as many context patches, and targets
    padded to the same length. It attends to the padding and counts it in the loss, which ours
    leaves out after having computed it. Its masks are those of one batch; ours are drawn in each
    step. The images of "torch plain" come normalised, as its loader's workers would make them; ours
    and those of "torch best" come as bytes and are normalised in the step.

    Args:
      folder: for what the contenders are told.
      steps: of a round.
      peer: also the PyTorch step, "torch plain" and "torch best", in the same precision.
      before: rows of an earlier run, which these are to be held against.

    Returns:
      A row for each contender: what it is about, and "rounds": what each round took.

    Raises:
      UserError: if one fails, or they would not do the same work.
    """
    ours = our_contender(OURS, config, folder)
    peers = [peer_contender(style, config, folder) for style in STYLES if peer]
    with ExitStack() as running:
        for each in (ours, *peers):
            running.callback(each.stop)
        rows = start_all([ours])
        if peers and (devices := rows[OURS]["devices"]) > 1:
            raise UserError(
                f"--peer=torch runs on one device, ours on {devices}: show both but one, such as by"
                " CUDA_VISIBLE_DEVICES=0"
            )
        for each in peers:
            rows |= start_all([each])
            check_same(rows[OURS], rows[each.name])
        check_unchanged(before, list(rows.values()))
        take_turns([ours, *peers], rows, steps=steps, rounds=rounds)
        try:
            rows[OURS]["input"] = ours.ask("input", INPUT_STEPS)
        except UserError as error:  # the rounds are worth telling without
            rows[OURS]["input"] = {"missing": str(error)}
    return list(rows.values())


def our_contender(
    name: str,
    config: ConfigDict,
    folder: pathlib.Path,
    devices: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Contender:
    """Our training step in a process of its own.

    Args:
      devices: into so many the CPU is split.
      environment: variables of the process, beside those of this one.
    """
    path = folder / f"{name}.pickle"
    path.write_bytes(pickle.dumps(config.copy_and_resolve_references()))
    # Processes that start anew for each round compile once.
    programs = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"programs_{name}")}
    environment = programs | dict(environment or {})
    if devices:
        environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jepa_jax.benchmark.ours", str(path)]
    return Contender(name, command, environment)


def peer_contender(
    style: str,
    config: ConfigDict,
    folder: pathlib.Path,
    environment: Mapping[str, str] | None = None,
) -> Contender:
    """The PyTorch step, one of `STYLES`, in a process of its own.

    Raises:
      UserError: for a setting that it does not know.
    """
    for key, value in PEER_DOES.items():
        if differing(config).get(key, value) != value:
            raise UserError(f"--peer=torch does no other work than {key}={value}: leave one out")
    name = f"torch {style}"
    # Compiled anew in each benchmark, as ours is, and once for all rounds.
    programs = {
        variable: str(folder / f"{variable}_{style}")
        for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    }
    setup, drawn = folder / f"{name}.json", folder / f"{name}.npz"
    setup.write_text(json.dumps({"sizes": _sizes(config), "dtype": config.model.dtype}))
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the contenders'
    size, draws = config.train.batch_size, config.train.draws
    batch = masks.sample(jax.random.key(0), mask_spec(config), size, draws=draws)
    np.savez(drawn, **batch._asdict())
    command = [sys.executable, str(PEER), str(setup), str(drawn), style]
    return Contender(name, command, programs | dict(environment or {}))


def _sizes(config: ConfigDict) -> dict[str, Any]:
    """What the peer's networks are made of."""
    size = architecture(config)
    return size | {
        "grid": grid(config),
        "patch_size": config.model.patch_size,
        "channels": config.data.channels,
        "predictor_width": config.predictor.width,
        "predictor_depth": config.predictor.depth,
        "predictor_heads": config.predictor.heads or size["heads"],
    }


def check_same(ours: dict[str, Any], other: dict[str, Any], keys: Sequence[str] = SAME) -> None:
    """Refuses to compare what is not the same work.

    Raises:
      UserError: naming the difference.
    """
    for key in keys:
        if ours[key] != other[key]:
            raise UserError(f"{other['contender']} has {key} {other[key]}, ours {ours[key]}")


def check_unchanged(before: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Refuses to hold rows against an earlier run's that did other work, or on another device.

    Raises:
      UserError: naming the difference.
    """
    earlier = {row["contender"]: row for row in before}
    for row in rows:
        old = earlier.get(row["contender"], row)
        for key in (*SAME, "flops"):
            if old.get(key) != row.get(key):  # the peer tells no FLOPs
                raise UserError(
                    f"--compare is of another {key}: {old[key]}, not {row[key]}; two settings are"
                    " compared where they do the same work"
                )
