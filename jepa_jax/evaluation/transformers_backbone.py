"""Vision models of Hugging Face transformers, in PyTorch, as backbones: CLIP, DINOv2, MAE, …"""

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jepa_jax.data.resizing import FILTERS
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import digest
from jepa_jax.evaluation.features import Rows
from jepa_jax.interop.extras import extra
from jepa_jax.interop.safetensors_files import read_json
from jepa_jax.training.checksums import checksums
from jepa_jax.training.storage import summary

PREFIX = "hf:"  # of the name of a backbone; a folder follows
WARPED = 384  # images of this size and above are not cropped where a processor has `crop_pct`


@dataclasses.dataclass(frozen=True)
class Transformers:
    """A model of `AutoModel`, seen as it was trained to see.

    An image's vector is the average over its patches, as for I-JEPA; or with `pool="own"` what the
    model itself calls that: `pooler_output`, which mostly comes from a class token.
    """

    name: str
    module: Any  # torch.nn.Module
    view: EvalView
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: str = "average"
    model: None = None

    @functools.cached_property
    def identity(self) -> str:
        weights = {name: value.cpu().numpy() for name, value in self.module.state_dict().items()}
        about = [self.module.config.to_dict(), self.mean, self.std, self.pool]
        return digest([repr(about), checksums(weights)])

    def stream(
        self, batches: Iterable[dict], mesh: jax.sharding.Mesh, layers: int, patches: bool
    ) -> Iterator[Rows]:
        """See `Backbone.stream`; on the first GPU that PyTorch sees, or the CPU."""
        if jax.process_count() > 1:
            raise UserError(f"{self.name} is of PyTorch: evaluate it with one process")
        torch = extra("torch")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        module = self.module.to(device)
        for batch in batches:
            real = batch["place"] >= 0
            pixels = batch["images"][real].astype(np.float32) / np.float32(255)
            pixels = (pixels - np.float32(self.mean)) / np.float32(self.std)
            with torch.inference_mode():
                images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
                values = self._features(module, images, layers, patches).float().cpu().numpy()
            yield Rows(values, *(batch[key][real].astype(np.int32) for key in ("index", "place")))

    def _features(self, module: Any, images: Any, layers: int, patches: bool) -> Any:
        found = self._run(module, images, layers > 1)
        if self.pool == "own" and not patches:
            if layers > 1 or getattr(found, "pooler_output", None) is None:
                raise UserError(
                    f"{self.name} has no vector of its own for this: take --pool=average"
                )
            return found.pooler_output.flatten(1)
        parts = [found.last_hidden_state]
        if layers > 1:
            parts = [*(found.hidden_states or ())[-layers:-1], *parts]
            if len(parts) < layers or len({part.shape[1:] for part in parts}) > 1:
                raise UserError(f"{self.name} has no {layers} layers of one size: take layers=1")
            # The last state is after the final norm, where the model has one.
            norm = getattr(module, "layernorm", None) or (lambda part: part)
            parts = [*map(norm, parts[:-1]), parts[-1]]
        parts = [self._patches(module, part, images) for part in parts]
        tokens = parts[0] if layers == 1 else extra("torch").cat(parts, -1)
        return tokens if patches else tokens.mean(1)

    def _run(self, module: Any, images: Any, all_states: bool) -> Any:
        known = inspect.signature(module.forward).parameters
        given = {}
        if module.config.model_type == "vit_mae":
            # It hides patches, and shuffles what it shows, by noise: here none, and in order.
            count = _patch_count(module.config, images)
            noise = extra("torch").arange(count, dtype=images.dtype, device=images.device)
            given["noise"] = noise.expand(len(images), -1)
        if "interpolate_pos_encoding" in known:
            given["interpolate_pos_encoding"] = True  # changes nothing at the size of the training
        try:
            return module(images, output_hidden_states=all_states, return_dict=True, **given)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self.name}: {str(error).splitlines()[0]}") from error

    def _patches(self, module: Any, states: Any, images: Any) -> Any:
        """(B, N, D), without class tokens and the like, which come first."""
        if states.ndim == 4:  # (B, D, rows, columns), of convolutions
            return states.flatten(2).transpose(1, 2)
        count = _patch_count(module.config, images)
        return states[:, max(0, states.shape[1] - count) :] if count else states


def open_transformers(name: str, size: tuple[int, int] | None, pool: str) -> Transformers:
    """The model of "hf:FOLDER", and what its image processor does before.

    Args:
      size: height and width of the images, if not the processor's.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    folder = pathlib.Path(name.removeprefix(PREFIX)).expanduser()
    read_json(folder / "config.json")
    if not (folder / "preprocessor_config.json").is_file():
        raise UserError(f"{folder} has no preprocessor_config.json, which tells size, mean and std")
    try:
        transformers = extra("transformers")
        module, told = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except UserError:
        raise
    except Exception as error:  # of all kinds, on what is no vision model, or damaged
        raise UserError(f"{folder} can't be loaded: {summary(error)}") from error
    # A pooler that was left out is not looked at, unless it is asked for.
    missing = [key for key in told["missing_keys"] if pool == "own" or "pooler" not in key]
    if missing:
        raise UserError(f"{folder} lacks weights: {', '.join(sorted(missing)[:5])}: copy it again")
    module = getattr(module, "vision_model", module)  # CLIP and its like have a text model
    module = module.float().eval()  # whatever it was stored in
    if "pixel_values" not in inspect.signature(module.forward).parameters:
        raise UserError(f"{folder} holds no model of images, but {module.config.model_type!r}")
    if module.config.model_type == "vit_mae":
        module.config.mask_ratio = 0.0
    view, mean, std = _seen(folder, module.config)
    if size:
        view = dataclasses.replace(view, size=size)
    title = name if pool == "average" else f"{name}, its own vector"
    return Transformers(title, module, view, mean, std, pool)


def _seen(folder: pathlib.Path, config: Any) -> tuple[EvalView, tuple, tuple]:
    """The crop that the processor takes, and mean and deviation of its pixels, in 0..1.

    Resampled bilinearly where it does so neither with that nor with a bicubic filter.
    """
    processor = read_json(folder / "preprocessor_config.json")
    channels = getattr(config, "num_channels", 3)
    crop, size = processor.get("crop_size"), processor.get("size")
    own = getattr(config, "image_size", None)
    try:
        resized = _sides(size) or _sides(own) or _sides(crop)
        cropped = (processor.get("do_center_crop", True) and _sides(crop)) or resized
        share = min(1.0, max(cropped) / max(resized))
        if max(cropped) < WARPED:
            share *= processor.get("crop_pct") or 1.0
        names = {int(kind): name for name, kind in FILTERS.items()}
        interpolation = names.get(processor.get("resample"), "bilinear")
        mean, std = _normalisation(processor, channels)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}/preprocessor_config.json can't be understood ({error!r})"
        ) from None
    return EvalView(cropped, channels, share, interpolation), mean, std


def _normalisation(processor: dict[str, Any], channels: int) -> tuple[tuple, tuple]:
    """Mean and deviation, of pixels in 0..1, that do at once what a processor does step by step.

    It scales pixels of 0..255, shifts and normalises them; EfficientNet's divides by the deviation
    once more (`include_top`).
    """
    if processor.get("do_flip_channel_order"):
        raise ValueError("channels in the order blue, green, red")
    mean, std = np.zeros(channels), np.ones(channels)
    if processor.get("do_normalize", True):
        mean, std = (np.array(processor[key], float) for key in ("image_mean", "image_std"))
    if processor.get("include_top"):
        std = std * processor["image_std"]
    if mean.shape != (channels,) or std.shape != (channels,) or min(std) <= 0:
        raise ValueError(f"mean {mean} and deviation {std} for {channels} channels")
    scale = 255.0
    if processor.get("do_rescale", True):
        scale *= processor.get("rescale_factor", 1 / 255)
    mean = mean + bool(processor.get("rescale_offset"))
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width, of the several ways in which transformers tells them."""
    match value:
        case {"height": height, "width": width}:
            return int(height), int(width)
        case {"shortest_edge": side}:
            return int(side), int(side)
        case int():
            return value, value
        case [height, width]:
            return int(height), int(width)
    return None


def _patch_count(config: Any, images: Any) -> int:
    """Of these images (B, C, H, W); 0 where the model has no patches of one size."""
    patch = getattr(config, "patch_size", 0)
    sides = patch if isinstance(patch, list | tuple) else (patch, patch)
    if not all(sides):
        return 0
    return (images.shape[2] // sides[0]) * (images.shape[3] // sides[1])
