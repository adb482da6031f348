"""What stands for a backbone on the command line, opened."""

import contextlib
import dataclasses

import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.evaluation.backbones import Backbone, Encoders, Pixels, untrained
from jepa_jax.evaluation.transformers_backbone import PREFIX, open_transformers
from jepa_jax.interop.load import ENCODERS, load
from jepa_jax.interop.runs import find_checkpoint
from jepa_jax.pretrained import Pretrained

WORDS = ("pixels", "untrained")  # that stand for no file
CHOICES = (*ENCODERS, "both")


@dataclasses.dataclass(frozen=True)
class How:
    """What is asked of all backbones.

    Attributes:
      encoder: "target", "context" or "both", side by side.
      size: height and width of the images; None for what each was trained on.
      dtype: of the matrix products.
      pool: "average" over patches, or "own", for models of Hugging Face's alone: their own vector.
    """

    encoder: str = "target"
    size: tuple[int, int] | None = None
    dtype: str = "float32"
    pool: str = "average"


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
      config: of which an untrained encoder would be, and the view of pixels.

    Raises:
      UserError: if there is no such thing, it is damaged or the images do not fit it.
    """
    if name == "pixels":
        view = EvalView.of(config.data)
        return Pixels(dataclasses.replace(view, size=how.size or view.size))
    if name == "untrained":
        return _fitted(untrained(config), how)
    if name.startswith(PREFIX):
        return open_transformers(name, how.size, how.pool)
    parts = ENCODERS if how.encoder == "both" else (how.encoder,)
    models = tuple(load(name, part) for part in parts)
    if len(models) > 1 and not all(model.part for model in models):
        raise UserError(
            f"--encoder=both: {name} holds one encoder only, and does not tell which: leave"
            " --encoder out"
        )
    return _fitted(Encoders(_title(name, models), models), how)


def _fitted(backbone: Encoders, how: How) -> Encoders:
    return dataclasses.replace(
        backbone, models=tuple(_fitted_model(each, how) for each in backbone.models)
    )


def _fitted_model(model: Pretrained, how: How) -> Pretrained:
    encoder = model.backbone.encoder.clone(dtype=jnp.dtype(how.dtype))
    model = dataclasses.replace(
        model, backbone=dataclasses.replace(model.backbone, encoder=encoder)
    )
    return model.resized(how.size) if how.size else model


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


def stored_recipe(names: list[str]) -> ConfigDict | None:
    """What the first of the checkpoints that is a run of ours was trained by."""
    for name in names:
        path = epath.Path(name).expanduser()
        if name not in WORDS and path.is_dir():
            with contextlib.suppress(UserError):  # a folder of another kind, or a damaged run
                return find_checkpoint(path).config
    return None
