"""Equal to the published PyTorch code: a recorded run of twelve steps and its schedules."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jepa_jax import ijepa, losses
from jepa_jax.errors import UserError
from jepa_jax.interop.layout import read
from jepa_jax.interop.reference import encoder_layout, predictor_layout, without_prefix
from jepa_jax.masks import Masks
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.vit import Encoder
from jepa_jax.optim import AdamW, Schedules

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
GRID = (8, 8)


class Golden:
    """The recorded run, read through the importer that reads released checkpoints."""

    def __init__(self):
        self.arrays = dict(np.load(FIXTURES / "reference_run.npz"))
        # Positions have no gradient, so the recording has none; the importer wants them.
        for name in ("encoder/pos_embed", "predictor/predictor_pos_embed"):
            self.arrays[f"grad/{name}"] = self.arrays[f"init/{name}"]
        self.config = json.loads(str(self.arrays["config"]))
        c = self.config
        self.encoder = Encoder(c["embed_dim"], c["depth"], c["num_heads"], c["patch_size"])
        self.predictor = Predictor(
            c["predictor_embed_dim"], c["predictor_depth"], c["num_heads"], c["embed_dim"], GRID
        )
        self.model = ijepa.IJEPA(self.encoder, self.predictor, AdamW(), schedules(c))
        image = (*(side * c["patch_size"] for side in GRID), 3)
        init = functools.partial(ijepa.init, self.model, jax.random.key(0), image)
        self.shapes = jax.eval_shape(init).params

    def params(self, when: str) -> dict:
        return {
            "encoder": self.encoder_params(f"{when}/encoder/"),
            "predictor": read(
                self.part(f"{when}/predictor/"),
                predictor_layout(self.predictor, self.encoder.width),
                self.shapes["predictor"],
                "this predictor",
            ),
        }

    def encoder_params(self, prefix: str) -> dict:
        return self.read_encoder(self.part(prefix))

    def read_encoder(self, tensors: dict) -> dict:
        layout = encoder_layout(self.encoder, 3, GRID)
        return read(tensors, layout, self.shapes["encoder"], "this encoder")

    def part(self, prefix: str) -> dict:
        arrays = self.arrays
        return {
            name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)
        }

    def batch(self, step: int) -> ijepa.Batch:
        images, context, targets = (
            jnp.asarray(self.arrays[f"step{step}/{name}"])
            for name in ("images", "context", "targets")
        )
        length = jnp.full(targets.shape[:2], targets.shape[2], jnp.int32)
        return ijepa.Batch(images, Masks(context, targets, length))

    def state(self) -> ijepa.State:
        params = jax.tree.map(jnp.asarray, self.params("init"))
        target = jax.tree.map(jnp.asarray, self.encoder_params("init/target_encoder/"))
        return ijepa.State(jnp.int32(0), params, target, self.model.optimizer.init(params))


def schedules(c: dict) -> Schedules:
    return Schedules(
        steps=int(c["schedule_scale"] * c["epochs"] * c["steps_per_epoch"]),
        warmup_steps=c["warmup_epochs"] * c["steps_per_epoch"],
        learning_rate=(c["start_learning_rate"], c["learning_rate"], c["final_learning_rate"]),
        weight_decay=(c["weight_decay"], c["final_weight_decay"]),
        momentum=tuple(c["ema"]),
    )


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


@pytest.fixture(scope="module")
def trained(golden: Golden) -> tuple[ijepa.State, list[ijepa.Metrics]]:
    step = jax.jit(ijepa.train_step, static_argnums=0)
    state, rows = golden.state(), []
    for number in range(12):
        state, metrics = step(golden.model, state, golden.batch(number))
        rows.append(metrics)
    return state, rows


def test_target_encoder_output(golden: Golden):
    target = golden.encoder_params("init/target_encoder/")
    features = ijepa.encode(golden.model, target, golden.batch(0).images)
    np.testing.assert_allclose(features, golden.arrays["forward/target_full"], atol=2e-5)
    np.testing.assert_allclose(
        losses.normalize_targets(features), golden.arrays["forward/target_normalized"], atol=2e-5
    )


def test_context_encoder_output(golden: Golden):
    batch, params = golden.batch(0), golden.params("init")
    features = ijepa.encode(golden.model, params["encoder"], batch.images, batch.masks.context)
    np.testing.assert_allclose(features, golden.arrays["forward/context"], atol=2e-5)


def test_prediction_and_target(golden: Golden):
    state, batch = golden.state(), golden.batch(0)
    prediction = ijepa.predict(golden.model, state.params, batch)
    target = ijepa.target_features(golden.model, state.target, batch)
    np.testing.assert_allclose(prediction, golden.arrays["forward/prediction"], atol=2e-5)
    np.testing.assert_allclose(target, golden.arrays["forward/target"], atol=2e-5)


def test_losses_of_the_first_step(golden: Golden):
    state, batch = golden.state(), golden.batch(0)
    for name, expected in (("smooth_l1", "trace/loss"), ("l2", "forward/l2")):
        model = dataclasses.replace(golden.model, loss=name)
        value = jax.jit(ijepa.loss, static_argnums=0)(model, state.params, state.target, batch)
        assert float(value) == pytest.approx(np.ravel(golden.arrays[expected])[0], rel=2e-5)


def test_gradients_of_the_first_step(golden: Golden):
    gradient = jax.jit(ijepa.loss_and_gradient, static_argnums=0)
    _, gradients = gradient(golden.model, golden.state(), golden.batch(0))

    def close(path, ours, theirs):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error <= 1e-4, (jax.tree_util.keystr(path), error)

    jax.tree.map_with_path(close, gradients, golden.params("grad"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("loss", "loss"),
        ("learning_rate", "learning_rate"),
        ("weight_decay", "weight_decay"),
        ("momentum", "ema_momentum"),
    ],
)
def test_trace_of_twelve_steps(golden: Golden, trained, ours: str, theirs: str):
    values = [getattr(metrics, ours) for metrics in trained[1]]
    np.testing.assert_allclose(values, golden.arrays[f"trace/{theirs}"], rtol=1e-5)


def test_final_parameters(golden: Golden, trained):
    state, _ = trained

    def close(path, ours, theirs):
        ours = np.asarray(ours)
        if path[-1].key == "bias" and path[-2].key == "qkv":
            # Without the keys' part: its true gradient is zero, and AdamW, which divides by the
            # gradient's size, makes whole steps of what rounding leaves.
            ours, theirs = ours[:, :, [0, 2]], theirs[:, :, [0, 2]]
        np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=jax.tree_util.keystr(path))

    jax.tree.map_with_path(close, state.params, golden.params("final"))
    jax.tree.map_with_path(close, state.target, golden.encoder_params("final/target_encoder/"))


def test_schedule_of_the_released_vit_h14():
    released = np.load(FIXTURES / "schedule_vith14_300ep.npz")
    ours = schedules(json.loads(str(released["config"])))(jnp.asarray(released["step"], jnp.int32))
    for value, name in zip(ours, ("learning_rate", "weight_decay", "ema_momentum"), strict=True):
        np.testing.assert_allclose(value, released[name], rtol=1e-6, err_msg=name)


def test_a_prefix_is_dropped_that_all_names_have():
    assert without_prefix({"module.a": 1, "module.b": 2}) == {"a": 1, "b": 2}
    assert without_prefix({"module.a": 1, "b": 2}) == {"module.a": 1, "b": 2}


def test_importer_names_every_misfit(golden: Golden):
    tensors = golden.part("init/encoder/")
    del tensors["norm.bias"]
    tensors["cls_token"] = np.zeros((1, 1, 48))
    tensors["blocks.1.mlp.fc1.bias"] = np.zeros(7)
    with pytest.raises(UserError) as caught:
        golden.read_encoder(tensors)
    for complaint in (
        "norm.bias is missing",
        "cls_token is unknown",
        "blocks.1.mlp.fc1.bias is (7,), not (192,)",
    ):
        assert complaint in str(caught.value)


def test_importer_refuses_other_positions(golden: Golden):
    tensors = golden.part("init/encoder/")
    tensors["pos_embed"] = tensors["pos_embed"][:, ::-1]
    with pytest.raises(UserError, match="pos_embed does not hold the positions of a grid of 8×8"):
        golden.read_encoder(tensors)
