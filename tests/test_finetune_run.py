"""Fine-tuning a tiny encoder on digits, from the beginning, from the middle, and from nonsense."""

import dataclasses

import jax
import pytest
from etils import epath

from jepa_jax import ijepa
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation import finetune_run
from jepa_jax.evaluation.finetune_run import FewLabels, Options
from jepa_jax.evaluation.splits import open_splits
from jepa_jax.evaluation.task import Task
from jepa_jax.parallel.sharding import make_mesh
from jepa_jax.pretrained import Backbone, Pretrained
from jepa_jax.training.setup import build_model
from tests.tiny import tiny

OPTIONS = Options(
    epochs=20.0, warmup_epochs=2.0, batch_size=64, base_learning_rate=0.06, evaluate_every=10.0,
    crop_scale=(0.6, 1.0), flip=False, mixup=0.0, cutmix=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def task() -> Task:
    config = tiny()
    model = build_model(config, steps_per_epoch=1)
    params = jax.jit(lambda key: ijepa.init(model, key, (8, 8, 1)).target)(jax.random.key(0))
    # With .02 for σ the few pixels of a patch drown in its position.
    params["patch_embed"]["kernel"] *= 20
    view = EvalView.of(config.data)
    pretrained = Pretrained(Backbone(model.encoder, model.mean, model.std), params, view)
    train, test = open_splits(config.data, train_images=640, test_images=150)
    mesh = make_mesh((1, 1, 1), jax.devices()[:1])
    folder = epath.Path("nowhere")
    return Task("tiny", train, test, None, folder, 0, pretrained, config.data, mesh)


@pytest.fixture(scope="module")
def straight(task, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("straight"))
    return finetune_run.run(dataclasses.replace(task, folder=folder), OPTIONS)


def test_learns_digits_and_tells_how(straight):
    first, last = straight.details["curve"]
    assert (first["epoch"], last["epoch"]) == (10, 20)
    assert last["loss"] < first["loss"]
    assert straight.best == last["accuracy"] == straight.rows["epoch 20"]["accuracy"] > 0.5


def test_goes_on_where_it_was_stopped_and_comes_to_the_same_end(
    task, straight, tmp_path, monkeypatch
):
    task = dataclasses.replace(task, folder=epath.Path(tmp_path))

    def stop_after_the_first(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        look = finetune_run._accuracy
        context.setattr(finetune_run, "_accuracy", lambda *a: context.setattr(
            finetune_run, "_accuracy", stop_after_the_first) or look(*a))  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            finetune_run.run(task, OPTIONS)
    assert finetune_run.run(task, OPTIONS) == straight
    assert finetune_run.run(task, OPTIONS) == straight  # what is finished stays as it is


def test_crops_are_those_of_options_and_view_whatever_the_encoder_was_trained_on(task):
    plain = finetune_run._as_trained(task, OPTIONS)
    data = task.data.copy_and_resolve_references()
    other = {"crop_aspect": (1.0, 1.0), "colour_jitter": 1.0, "greyscale": 0.2, "blur": 0.5}
    data.update(interpolation="bicubic", resizer="fast", **other)
    assert finetune_run._as_trained(dataclasses.replace(task, data=data), OPTIONS) == plain
    view = dataclasses.replace(task.model.view, interpolation="bicubic")
    bicubic = dataclasses.replace(task, model=dataclasses.replace(task.model, view=view))
    assert finetune_run._as_trained(bicubic, OPTIONS).interpolation == "bicubic"


def test_few_labels_are_taken_as_in_the_paper():
    few = FewLabels()
    assert few.learning_rate == pytest.approx(3e-5)
    assert (few.epochs, few.batch_size, few.layer_decay) == (50, 512, 0.75)
    assert (few.weight_decay, few.label_smoothing) == (0.05, 0.1)  # ViT-L/16
    assert few.mixup == few.cutmix == few.drop_path == 0


@pytest.mark.parametrize("size", [641, 2000])
def test_a_batch_that_cannot_be_is_answered_in_one_line(task, size):
    with pytest.raises(UserError, match=f"batch_size={size} .* take 640"):
        finetune_run.run(task, dataclasses.replace(OPTIONS, batch_size=size))
