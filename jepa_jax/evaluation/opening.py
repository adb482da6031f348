"""What stands for a backbone on the command line, opened."""

import contextlib
import dataclasses
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from jepa_jax.config import defaults
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.evaluation.backbones import Backbone, Encoders, Pixels, untrained
from jepa_jax.evaluation.transformers_backbone import PREFIX, open_transformers
from jepa_jax.interop.load import ENCODERS, load
from jepa_jax.interop.runs import Checkpoint, find_checkpoint
from jepa_jax.pretrained import Pretrained
from jepa_jax.validation import check_fast_resizer, validate

WORDS = ("pixels", "untrained")  # that stand for no file
VIEW = {"eval_crop": "share", "interpolation": "interpolation", "resizer": "resizer"}


@dataclasses.dataclass(frozen=True)
class How:
    """What is asked of all backbones.

    Attributes:
      encoder: "target", "context" or "both", side by side.
      size: height and width of the images; None for what each was trained on.
      dtype: of the matrix products.
      pool: "average" over patches, or "own", for models of Hugging Face's alone: their own vector.
      overridden: keys of the config that the command line sets, such as "data.eval_crop". What they
        say of the view holds for all backbones; the rest of it is each one's own.
    """

    encoder: str = "target"
    size: tuple[int, int] | None = None
    dtype: str = "float32"
    pool: str = "average"
    overridden: tuple[str, ...] = ()


def check_recipe(config: ConfigDict) -> None:
    """Raises UserError for impossible settings; whatever it says, the mesh is the machine's."""
    config = config.copy_and_resolve_references()
    config.mesh = defaults().mesh
    validate(config)


def check_names(names: list[str]) -> None:
    """Raises UserError for what can stand for no backbone; before others are evaluated."""
    for name in names:
        path = epath.Path(name.removeprefix(PREFIX)).expanduser()
        if name not in WORDS and not path.exists():
            raise UserError(
                f"--checkpoint={name} is not there: name a run's folder, a .pth.tar file, a"
                f" folder of Hugging Face's ({PREFIX}FOLDER: any model of images), or one of"
                f" {', '.join(WORDS)}{did_you_mean(name, WORDS)}"
            )


def open_backbone(name: str, config: ConfigDict, how: How) -> Backbone:
    """A checkpoint that `jepa_jax.load` reads, "hf:FOLDER", "pixels" or "untrained".

    Args:
      config: of which an untrained encoder would be, the view of pixels, and what of the view was
        set for all.

    Raises:
      UserError: if there is no such thing, it is damaged or the images do not fit it.
    """
    fitted = partial(_fitted, data=config.data, how=how)
    if name == "pixels":
        view = EvalView.of(config.data)
        return Pixels(dataclasses.replace(view, size=how.size or view.size))
    if name == "untrained":
        return fitted(untrained(config))
    if name.startswith(PREFIX):
        found = open_transformers(name, how.size, how.pool)
        return dataclasses.replace(found, view=_as_set(found.view, config.data, how))
    parts = ENCODERS if how.encoder == "both" else (how.encoder,)
    models = tuple(load(name, part) for part in parts)
    if len(models) > 1 and not all(model.part for model in models):
        raise UserError(
            f"--encoder=both: {name} holds one encoder only, and does not tell which: leave"
            " --encoder out"
        )
    return fitted(Encoders(_title(name, models), models))


def _fitted(backbone: Encoders, data: ConfigDict, how: How) -> Encoders:
    return dataclasses.replace(
        backbone, models=tuple(_fitted_model(each, data, how) for each in backbone.models)
    )


def _fitted_model(model: Pretrained, data: ConfigDict, how: How) -> Pretrained:
    encoder = model.backbone.encoder.clone(dtype=jnp.dtype(how.dtype))
    backbone = dataclasses.replace(model.backbone, encoder=encoder)
    model = model.resized(how.size) if how.size else model
    return dataclasses.replace(model, backbone=backbone, view=_as_set(model.view, data, how))


def _as_set(view: EvalView, data: ConfigDict, how: How) -> EvalView:
    """A backbone's view, but for what the command line sets."""
    size = tuple(data.image_size)
    if "data.image_size" in how.overridden and view.size != (how.size or size):
        raise UserError(
            "--config.data.image_size is that of the recipe, and checkpoints keep theirs: give"
            f" --image_size={size[0]},{size[1]} for all"
        )
    said = {VIEW[key]: data[key] for key in VIEW if f"data.{key}" in how.overridden}
    view = dataclasses.replace(view, **said)
    if view.resizer == "fast":
        check_fast_resizer(view.interpolation)
    return view


def _title(name: str, models: tuple[Pretrained, ...]) -> str:
    parts = " and ".join(each.part for each in models if each.part)
    step = models[0].about.get("step")
    told = [f"{parts} encoder" if parts else "", f"step {step}" if step is not None else ""]
    return ", ".join(filter(None, [name, *told]))


def image_size(given: list[str] | None) -> tuple[int, int] | None:
    """HEIGHT,WIDTH from the command line, or one number for both.

    Raises:
      UserError: if it is no such thing.
    """
    if given is None:
        return None
    try:
        height, width = map(int, given * 2 if len(given) == 1 else given)
        if min(height, width) < 1:
            raise ValueError
    except ValueError:
        raise UserError(f"--image_size={','.join(given)}: write it as 224 or 224,192") from None
    return height, width


def first_run(names: Sequence[str]) -> Checkpoint | None:
    """The newest checkpoint of the first of them that is a run of ours."""
    for name in names:
        path = epath.Path(name).expanduser()
        if name not in WORDS and path.is_dir():
            with contextlib.suppress(UserError):  # a folder of another kind, or a damaged run
                return find_checkpoint(path)
    return None
