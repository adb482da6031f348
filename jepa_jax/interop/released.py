"""Released checkpoints of the reference (`.pth.tar`): read, and written for it to go on with."""

import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.ijepa import IJEPA
from jepa_jax.interop.architecture import Hints, infer_encoder, infer_grid
from jepa_jax.interop.extras import extra
from jepa_jax.interop.layout import Layout, Tensor, read, write
from jepa_jax.interop.reference import (
    encoder_layout,
    encoder_shapes,
    predictor_layout,
    without_prefix,
)
from jepa_jax.interop.runs import find_checkpoint, read_state
from jepa_jax.interop.torch_files import read_torch, write_torch
from jepa_jax.models.vit import SIZES
from jepa_jax.optim import Schedule
from jepa_jax.pretrained import Backbone, Pretrained
from jepa_jax.training.setup import build_model

PARTS = {"target": "target_encoder", "context": "encoder"}
TOLD = "jepa_jax"  # our entry, with what the others do not tell; the reference passes over it

# Of mixed precision, as PyTorch starts it. The reference wants one, and without it would, as with
# any trouble, silently start from the beginning.
SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


def read_released(path: os.PathLike, part: str, hints: Hints) -> Pretrained:
    """One of the two encoders of a file in the reference's layout.

    Args:
      part: "target" or "context".
      hints: unless mean and std are told, they are ImageNet's, with which the reference trains.

    Raises:
      UserError: if the file is damaged or holds something else; names every misfit.
    """
    content, key = read_torch(path), PARTS[part]
    if not isinstance(content, dict) or not isinstance(content.get(key), dict):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else "something else"
        raise UserError(f"{path} is no I-JEPA checkpoint: it has no {key}, but {found[:200]}")
    told = {"mean": IJEPA.mean, "std": IJEPA.std, "heads": None}
    told |= {"eval_crop": EvalView.share, "interpolation": EvalView.interpolation}
    told |= {"resizer": EvalView.resizer}
    told |= content.get(TOLD) or {}
    if hints.heads is None:
        hints = hints._replace(heads=told["heads"])
    try:
        tensors = {str(name): _numpy(value) for name, value in content[key].items()}
        tensors = without_prefix(tensors)
        encoder, channels = infer_encoder(tensors, hints)
        grid, _ = infer_grid(tensors.get("pos_embed", np.zeros(())))
        mean, std = hints.normalization(channels, told["mean"], told["std"])
        layout = encoder_layout(encoder, channels, grid)
        shapes = encoder_shapes(encoder, channels, grid)
        params = read(tensors, layout, shapes, "this encoder")
    except UserError as error:
        raise UserError(f"{path}, {key}: {error}") from None
    size = tuple(side * encoder.patch_size for side in grid)
    view = EvalView(size, channels, told["eval_crop"], told["interpolation"], told["resizer"])
    about = {"source": pathlib.Path(path).name}
    return Pretrained(Backbone(encoder, mean, std), params, view, part, about)


def write_released(run: os.PathLike, path: os.PathLike) -> int:
    """Writes a run's checkpoint in the reference's layout, so that PyTorch can go on with it.

    Both encoders, the predictor, and AdamW's moments in the order of the reference's groups. What
    it goes on with is an epoch's beginning: the one that the step is in or at.

    Returns:
      That epoch, which is how many it takes for finished.

    Raises:
      UserError: if the reference has no such model, or the file is there.
    """
    if pathlib.Path(path).exists():
        raise UserError(f"{path} is there already: name another file")
    checkpoint = find_checkpoint(run)
    config = checkpoint.config
    examples = checkpoint.about.get("data", {}).get("examples")
    if examples is None:
        raise UserError(f"{checkpoint.folder} does not tell how many images an epoch has")
    steps_per_epoch = max(1, examples // config.train.batch_size)
    model = build_model(config, steps_per_epoch)
    encoder, predictor = model.encoder, model.predictor
    _check_known(model, config.data.channels)
    layouts = {
        "encoder": encoder_layout(encoder, config.data.channels, predictor.grid),
        "predictor": predictor_layout(predictor, encoder.width),
    }

    def tensors(*keys: str) -> dict[str, Any]:
        layout = layouts["predictor" if keys[-1] == "predictor" else "encoder"]
        arrays = write(read_state(checkpoint, keys), layout)
        return {name: extra("torch").from_numpy(array) for name, array in arrays.items()}

    def prefixed(named: dict[str, Any]) -> dict[str, Any]:
        return {f"module.{name}": value for name, value in named.items()}

    moments = {
        moment: {part: tensors("opt_state", ours, part) for part in layouts}
        for moment, ours in (("exp_avg", "mu"), ("exp_avg_sq", "nu"))
    }
    updates = int(read_state(checkpoint, ("opt_state", "count")))
    schedule = model.schedules(jnp.int32(max(checkpoint.step - 1, 0)))
    epoch = checkpoint.step // steps_per_epoch
    write_torch(
        path,
        {
            "encoder": prefixed(tensors("params", "encoder")),
            "predictor": prefixed(tensors("params", "predictor")),
            "target_encoder": prefixed(tensors("target")),
            "opt": _optimizer(layouts, moments, updates, model, schedule),
            "scaler": SCALER,
            "epoch": epoch,
            TOLD: {
                "heads": encoder.heads,
                "mean": list(model.mean),
                "std": list(model.std),
                "eval_crop": config.data.eval_crop,
                "interpolation": config.data.interpolation,
                "resizer": config.data.resizer,
            },
        },
    )
    return epoch


def _check_known(model: IJEPA, channels: int) -> None:
    """Refuses a model that the reference has not, which would start from the beginning silently.

    Raises:
      UserError: naming what it has not.
    """
    encoder, predictor = model.encoder, model.predictor
    if model.targets != "features":
        raise UserError(f"the reference predicts features: it has no targets={model.targets!r}")
    if predictor.one_pass:
        raise UserError(
            "the reference's predictor has a pass for each block, in which the context sees it:"
            " one of predictor.one_pass=True would compute something else there"
        )
    if predictor.heads != encoder.heads:
        raise UserError(
            f"the reference's predictor has as many heads as its encoder, {encoder.heads}, but this"
            f" one has {predictor.heads}: it would compute something else there"
        )
    rows, columns = predictor.grid
    if channels != 3 or rows != columns:
        raise UserError(
            "the reference has models of square images with 3 channels: it has none of"
            f" {rows}×{columns} patches with {channels}"
        )
    size = encoder.width, encoder.depth, encoder.heads, encoder.mlp_ratio
    if size not in SIZES.values():
        told = "width {}, depth {}, {} heads and an MLP ratio of {:g}".format(*size)
        raise UserError(f"the reference has {', '.join(SIZES)}: it has no encoder of {told}")


def _optimizer(
    layouts: dict[str, Layout],
    moments: dict[str, dict[str, dict[str, Any]]],
    updates: int,
    model: IJEPA,
    schedule: Schedule,
) -> dict[str, Any]:
    """The state dict of the reference's AdamW.

    Its groups are the decayed parameters of the encoder, those of the predictor, and those of both
    that are not decayed. Positions are among the first, without moments as they have no gradient.
    """
    torch, optimizer = extra("torch"), model.optimizer
    groups, state, number = [], {}, 0
    for decayed in (True, False):
        for part, layout in layouts.items():
            lines = [line for line in layout if _is_decayed(line) == decayed]
            group = {"params": [torch.empty(0) for _ in lines]}
            groups.append(group if decayed else group | {"WD_exclude": True, "weight_decay": 0})
            for line in lines:
                if isinstance(line, Tensor):
                    state[number] = {
                        "step": torch.tensor(float(updates)),
                        **{moment: values[part][line.name] for moment, values in moments.items()},
                    }
                number += 1
    adamw = torch.optim.AdamW(
        groups,
        lr=float(schedule.learning_rate),
        betas=(optimizer.b1, optimizer.b2),
        eps=optimizer.eps,
        weight_decay=float(schedule.weight_decay),
    )
    return adamw.state_dict() | {"state": state}


def _is_decayed(line: Any) -> bool:
    """As the reference decides it."""
    return "bias" not in line.name and (not isinstance(line, Tensor) or len(line.shape) != 1)


def _numpy(value: Any) -> np.ndarray:
    """A tensor's values, without a copy if they are float32."""
    if not hasattr(value, "is_floating_point"):
        return np.asarray(value)
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).numpy()
