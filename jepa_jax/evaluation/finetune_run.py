"""The protocol `finetune`: how an encoder does that is trained end to end on labelled images."""

import contextlib
import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jepa_jax.config import defaults
from jepa_jax.console import new_console, say
from jepa_jax.data.broken import Broken
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.protocol import Indices, Labels
from jepa_jax.data.transforms import EvalView
from jepa_jax.data.validation_split import ChosenSource
from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_options
from jepa_jax.evaluation.features import collect, mesh_batches, stream
from jepa_jax.evaluation.finetune import Batch, Finetuning, Recipe, State, init, logits, train_step
from jepa_jax.evaluation.task import Protocol, Result, Task
from jepa_jax.parallel.processes import gather, is_first
from jepa_jax.parallel.sharding import batch_parts, batch_sharding, process_share, tree_sharding
from jepa_jax.training.checkpoints import Checkpoints, with_sharding
from jepa_jax.training.rate import IN_FLIGHT

DTYPES = ("float32", "bfloat16")
PLAIN = ("crop_aspect", "colour_jitter", "greyscale", "blur")  # of training crops, as by default


@dataclasses.dataclass(frozen=True)
class Options(Recipe):
    """A recipe, and what of it is not its own affair.

    Attributes:
      crop_scale: share of an image that a training crop keeps.
      flip: whether to mirror half of the crops.
      evaluate_every: epochs between two looks at the test images, and two checkpoints.
      dtype: of the matrix products.
    """

    crop_scale: tuple[float, ...] = (0.08, 1.0)
    flip: bool = True
    evaluate_every: float = 5.0
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        check_options(self, positive=("crop_scale", "evaluate_every"))
        if len(self.crop_scale) != 2 or not self.crop_scale[0] <= self.crop_scale[1] <= 1:
            given = ",".join(f"{share:g}" for share in self.crop_scale)
            raise UserError(f"crop_scale={given}: give two shares, such as 0.08,1")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype} is none of {', '.join(DTYPES)}")


@dataclasses.dataclass(frozen=True)
class FewLabels(Options):
    """As the paper fine-tunes on 1 % of ImageNet (appendix A.2), but for RandAugment.

    Its learning rate is 3e-5, for a batch of 512. Of `weight_decay` this is ViT-L/16's; ViT-H/14
    and ViT-H/16 at 448 take 0.4. It tells of no warm-up: that is MAE's.
    """

    epochs: float = 50.0
    batch_size: int = 512
    base_learning_rate: float = 1.5e-5
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0


@dataclasses.dataclass(frozen=True)
class Chosen(ChosenSource):
    """The images of a split, as a source of their own, with the labels that it has in memory."""

    known: Labels

    def labels(self, indices: Indices) -> Labels:
        return self.known[indices]


def run(task: Task, options: Options) -> Result:
    """The accuracy after the last epoch, and on the way there.

    It goes on from the last checkpoint in `task.folder`, and comes to the same end.
    """
    console = new_console(quiet=not is_first())
    loader = _loader(task, options)
    fine = _finetuning(task, options, loader)
    state, curve, checkpoints = _start(task, fine)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(train_step, static_argnums=0, donate_argnums=1, out_shardings=(places, None))
    every = max(1, round(options.evaluate_every * loader.steps_per_epoch))
    sharding = batch_sharding(task.mesh)
    broken = Broken(
        loader.source,
        task.data.broken_share,
        task.model.view,
        partial(say, console),
        gather=gather if jax.process_count() > 1 else None,
    )
    done, losses = int(state.step), []
    with contextlib.closing(loader.iterate(done)) as images, jax.set_mesh(task.mesh):
        if done == fine.steps:  # images that could not be read then may be there now
            curve[-1]["accuracy"] = _accuracy(task, fine, state.params)
        while done < fine.steps:
            found = next(images)
            broken.note(found, done)
            labels = loader.source.labels(found["index"]).astype(np.int32)
            batch = Batch(
                *(
                    jax.make_array_from_process_local_data(sharding, part)
                    for part in (found["images"], labels)
                )
            )
            state, loss = step(fine, state, batch)
            losses.append(loss)
            done += 1
            if len(losses) > IN_FLIGHT:
                losses[-IN_FLIGHT - 1].block_until_ready()
            if done % every and done < fine.steps:
                continue
            broken.settle()
            loss, losses = float(np.mean(jax.device_get(losses))), []
            if not math.isfinite(loss):
                raise UserError(
                    f"fine-tuning diverged before step {done}: lower base_learning_rate"
                )
            epoch = done / loader.steps_per_epoch
            accuracy = _accuracy(task, fine, state.params)
            curve.append({"epoch": round(epoch, 3), "loss": loss, "accuracy": accuracy})
            say(
                console,
                f"epoch {epoch:g} of {options.epochs:g}  loss {loss:.4f}"
                f"  test accuracy {100 * accuracy:.1f} %",
            )
            checkpoints.save(done, state, {"curve": curve})
    checkpoints.wait()
    rows = {f"epoch {point['epoch']:g}": {"accuracy": point["accuracy"]} for point in curve}
    return Result(curve[-1]["accuracy"], rows, details={"curve": curve})


def _loader(task: Task, options: Options) -> TrainBatches:
    parts, images = batch_parts(task.mesh), len(task.train)
    size = options.batch_size
    if size % parts or size > images:
        fitting = max(parts, min(size, images) // parts * parts)
        raise UserError(
            f"batch_size={size} does not go with {images} training images on {parts} devices: take"
            f" {fitting}"
        )
    data = _as_trained(task, options)
    chosen = Chosen(task.train.source, task.train.index, task.train.labels)
    return TrainBatches(
        chosen, data, seed=task.seed, batch_size=size, shard=process_share(task.mesh)
    )


def _as_trained(task: Task, options: Options) -> ConfigDict:
    """The section `data` for training crops of the size that is tested.

    Of how the encoder was pre-trained it takes nothing: options and view tell all of a result.
    """
    data = task.data.copy_and_resolve_references()
    view: EvalView = task.model.view
    data.update(
        image_size=view.size,
        channels=view.channels,
        interpolation=view.interpolation,
        resizer=view.resizer,
        crop_scale=options.crop_scale,
        flip=options.flip,
        **{name: defaults().data[name] for name in PLAIN},
    )
    return data


def _finetuning(task: Task, options: Options, loader: TrainBatches) -> Finetuning:
    backbone = task.model.backbone
    encoder = backbone.encoder.clone(dtype=jnp.dtype(options.dtype))
    return Finetuning(
        dataclasses.replace(backbone, encoder=encoder),
        options,
        task.classes,
        loader.steps_per_epoch,
        task.seed,
    )


def _start(task: Task, fine: Finetuning) -> tuple[State, list[dict[str, float]], Checkpoints]:
    """Where the run goes on, or the beginning."""
    begin = partial(init, fine)
    shapes = jax.eval_shape(begin, task.model.params)
    sharding = tree_sharding(shapes, task.mesh)
    settings = defaults().train
    settings.checkpoints_kept = 1
    checkpoints = Checkpoints(task.folder / "checkpoints", settings)
    restored = checkpoints.restore(with_sharding(shapes, sharding))
    if restored is None:
        return jax.jit(begin, out_shardings=sharding)(task.model.params), [], checkpoints
    return restored.state, list(restored.about["curve"]), checkpoints


@dataclasses.dataclass(frozen=True)
class _Classify:
    """(params, images) -> scores: equal ones are compiled once."""

    fine: Finetuning

    def __call__(self, params: Any, images: Array) -> Array:
        return logits(self.fine, params, images)


def _accuracy(task: Task, fine: Finetuning, params: Any) -> float:
    batches = mesh_batches(
        task.test.source, task.data, task.test.index, task.mesh, view=task.model.view
    )
    found = collect(stream(_Classify(fine), params, batches, task.mesh))
    sound = task.sound(task.test, found.index)
    right = found.values.argmax(-1)[sound] == task.test.labels[sound]
    return float(np.mean(right))


FINETUNE = Protocol("finetune", Options, run, needs="model")
FINETUNE_FEW = Protocol("finetune_few", FewLabels, run, needs="model")
