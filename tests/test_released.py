"""Checkpoints in the reference's layout (.pth.tar): in, and out for PyTorch to go on with."""

import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepa_jax
from jepa_jax.config import defaults
from jepa_jax.errors import StorageError, UserError
from jepa_jax.ijepa import IJEPA
from jepa_jax.interop import released as released_files
from jepa_jax.interop.layout import write
from jepa_jax.interop.reference import encoder_layout, predictor_layout
from jepa_jax.interop.released import write_released
from jepa_jax.interop.torch_files import write_torch
from jepa_jax.optim import Schedule
from jepa_jax.training.setup import build_model
from tests.saving import save_run

torch = pytest.importorskip("torch", reason="needs jepa_jax[interop]")

RECORDED = np.load(pathlib.Path(__file__).parent / "fixtures" / "reference_run.npz")
ENTRIES = ("encoder", "predictor", "target_encoder")


def config():
    """That of the recorded run of the reference, whose names and shapes are known."""
    told, c = json.loads(str(RECORDED["config"])), defaults()
    c.data.image_size = (told["image_size"], told["image_size"])
    c.data.eval_crop = 0.8
    c.data.interpolation, c.data.resizer = "bicubic", "fast"  # no default, if impossible together
    c.model.patch_size = told["patch_size"]
    c.model.width, c.model.depth = told["embed_dim"], told["depth"]
    c.model.heads = told["num_heads"]
    c.model.dtype = "float32"
    c.predictor.width, c.predictor.depth = told["predictor_embed_dim"], told["predictor_depth"]
    c.train.batch_size = 64
    c.train.warmup_epochs = 1.0
    c.data.mean, c.data.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    return c


def recorded(entry: str) -> dict[str, np.ndarray]:
    """The reference's state dict, in its order."""
    prefix = f"init/{entry}/"
    return {
        name.removeprefix(prefix): RECORDED[name]
        for name in RECORDED.files
        if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run's folder, its state after 30 steps of 15 an epoch, and its file."""
    folder = tmp_path_factory.mktemp("run")
    state = save_run(folder, config())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(released_files, "SIZES", {"recorded": (48, 3, 3, 4.0)})
        write_released(folder, folder / "model.pth.tar")
    return folder, state, folder / "model.pth.tar"


@pytest.fixture
def released(tmp_path) -> pathlib.Path:
    """A file as the reference writes it, without a word of ours; of the recorded weights."""
    content = {
        entry: {f"module.{name}": torch.tensor(value) for name, value in recorded(entry).items()}
        for entry in ENTRIES
    }
    file = tmp_path / "released.pth.tar"
    torch.save(content | {"opt": {}, "scaler": None, "epoch": 3, "lr": 1e-3}, file)
    return file


def spoil(file: pathlib.Path, entry: str, **tensors) -> None:
    content = torch.load(file)
    content[entry] |= tensors
    content[entry] = {name: value for name, value in content[entry].items() if value is not None}
    torch.save(content, file)


def test_names_shapes_and_order_are_the_reference_s(written):
    content = torch.load(written[2], weights_only=True)
    for entry in ENTRIES:
        expected = recorded(entry)
        assert list(content[entry]) == [f"module.{name}" for name in expected]
        for name, value in expected.items():
            tensor = content[entry][f"module.{name}"]
            assert tuple(tensor.shape) == value.shape, name
            assert tensor.is_contiguous(), name
    assert content["epoch"] == 2


def test_out_and_in_again_is_bitwise_the_same(written):
    folder, _, file = written
    for part in ("target", "context"):
        run, back = jepa_jax.load(folder, part), jepa_jax.load(file, part)
        np.testing.assert_equal(back.params, run.params)
        assert (back.backbone, back.view) == (run.backbone, run.view)


def test_in_and_out_again_is_bitwise_the_same(released):
    for part, entry in (("target", "target_encoder"), ("context", "encoder")):
        model = jepa_jax.load(released, part, heads=3)
        layout = encoder_layout(model.backbone.encoder, 3, model.grid)
        np.testing.assert_equal(write(model.params, layout), recorded(entry))


def test_features_equal_the_reference_s(released):
    model = jepa_jax.load(released, heads=3)
    np.testing.assert_allclose(
        model.patch_features(RECORDED["step0/images"]),
        RECORDED["forward/target_full"],
        atol=2e-5,
    )
    assert model.backbone.mean == IJEPA.mean


def test_pytorch_goes_on_where_the_run_stopped(written):
    """A step of torch's AdamW, loaded as the reference loads it, is a step of ours."""
    _, state, file = written
    model = build_model(config(), steps_per_epoch=15)
    layouts = {
        "encoder": encoder_layout(model.encoder, 3, model.predictor.grid),
        "predictor": predictor_layout(model.predictor, model.encoder.width),
    }
    random = np.random.default_rng(0)
    gradients = jax.tree.map(
        lambda x: random.normal(scale=1e-3, size=x.shape).astype(np.float32), state.params
    )
    schedule = Schedule(jnp.float32(1e-3), jnp.float32(0.05), jnp.float32(1))
    ours, _ = jax.jit(model.optimizer.update)(gradients, state.opt_state, state.params, schedule)

    def named(params: dict) -> dict[str, np.ndarray]:
        return {
            f"{part}/{name}": value
            for part, layout in layouts.items()
            for name, value in write(params[part], layout).items()
        }

    content = torch.load(file, weights_only=True)
    theirs = {}
    for part in ("encoder", "predictor"):
        for name in recorded(part):
            tensor = content[part][f"module.{name}"].clone()
            fixed = "pos_embed" in name
            theirs[f"{part}/{name}"] = torch.nn.Parameter(tensor, requires_grad=not fixed)
    groups = [
        {
            "params": [
                theirs[name]
                for name in theirs
                if name.startswith(f"{part}/")
                and ("bias" in name or theirs[name].ndim == 1) != decayed
            ]
        }
        for decayed in (True, False)
        for part in ("encoder", "predictor")
    ]
    adamw = torch.optim.AdamW(groups)
    adamw.load_state_dict(content["opt"])
    assert [group.get("WD_exclude", False) for group in adamw.param_groups] == [0, 0, 1, 1]
    for group in adamw.param_groups:
        group["lr"] = 1e-3
        group["weight_decay"] = 0.0 if group.get("WD_exclude") else 0.05
    for name, gradient in named(gradients).items():
        if theirs[name].requires_grad:
            theirs[name].grad = torch.tensor(gradient)
    adamw.step()
    for name, value in named(ours).items():
        np.testing.assert_allclose(theirs[name].detach(), value, atol=1e-6, err_msg=name)


def test_the_scaler_is_one_that_pytorch_takes(written):
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(torch.load(written[2])["scaler"])
    assert scaler.get_scale() == 2**16


def test_a_file_is_not_written_over(written):
    with pytest.raises(UserError, match="is there already"):
        write_released(written[0], written[2])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heads": 4}, "as many heads as its encoder, 3, but this one has 4"),
        ({"one_pass": True}, "one of predictor.one_pass=True would compute something else"),
    ],
)
def test_a_predictor_that_the_reference_has_not(written, tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint):
        write_released(changed(written[0], tmp_path, predictor=change), tmp_path / "model.pth.tar")


def test_targets_that_the_reference_has_not(written, tmp_path):
    with pytest.raises(UserError, match="it has no targets='pixels'"):
        write_released(changed(written[0], tmp_path, targets="pixels"), tmp_path / "model.pth.tar")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "has vit_ti, .*no encoder of width 48, depth 3, 3 heads and an MLP ratio of 4"),
        (
            {"data": {"channels": 1}},
            "square images with 3 channels: it has none of 8×8 patches with 1",
        ),
        ({"data": {"image_size": [48, 24]}}, "it has none of 8×4 patches with 3"),
    ],
)
def test_an_encoder_that_the_reference_has_not(written, tmp_path, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        write_released(changed(written[0], tmp_path, **settings), tmp_path / "model.pth.tar")


def changed(run: pathlib.Path, folder: pathlib.Path, **settings) -> pathlib.Path:
    """A copy of the run in a folder, whose config says otherwise."""
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    about = folder / "checkpoints" / "30" / "about" / "metadata"
    content = json.loads(about.read_text())
    for name, value in settings.items():
        old = content["config"][name]
        content["config"][name] = old | value if isinstance(value, dict) else value
    about.write_text(json.dumps(content))
    return folder


def test_a_full_disk_leaves_nothing(tmp_path):
    (tmp_path / "model.pth.tar.new").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"cannot be written \(.*No space left on device\)"):
        write_torch(tmp_path / "model.pth.tar", {"weights": torch.zeros(100_000)})
    assert not list(tmp_path.iterdir())


def test_heads_of_an_unusual_size_are_asked_for(released):
    with pytest.raises(UserError, match="width 48 and depth 3 has no usual number of heads"):
        jepa_jax.load(released)
    with pytest.raises(UserError, match="does not divide into heads=5"):
        jepa_jax.load(released, heads=5)


def test_every_tensor_that_does_not_fit_is_named(released):
    changes = {f"module.blocks.{i}.attn.proj.weight": None for i in range(3)}
    changes |= {
        "module.norm.bias": torch.zeros(7),
        "module.cls_token": torch.zeros(1, 1, 48),
        "module.pos_embed": torch.zeros(1, 64, 48),
    }
    spoil(released, "target_encoder", **changes)
    jepa_jax.load(released, "context", heads=3)
    with pytest.raises(UserError) as caught:
        jepa_jax.load(released, heads=3)
    for complaint in (
        "blocks.{0..2}.attn.proj.weight is missing",
        "norm.bias is (7,), not (48,)",
        "cls_token is unknown",
        "pos_embed does not hold the positions of a grid of 8×8",
    ):
        assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"student": {}, "teacher": {}}, "has no target_encoder, but student, teacher"),
        ([1, 2], "has no target_encoder, but something else"),
        ({"target_encoder": {"a.weight": 1}}, r"no patch_embed\.proj\.weight, but a\.weight"),
        (
            {"target_encoder": {"patch_embed.proj.weight": torch.zeros(8, 3, 2, 4, 4)}},
            r"patch_embed\.proj\.weight is \(8, 3, 2, 4, 4\)",
        ),
    ],
)
def test_a_checkpoint_of_another_model(tmp_path, content, complaint):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=complaint):
        jepa_jax.load(tmp_path / "other.pth")


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_half_a_file(released, kept):
    content = released.read_bytes()
    released.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="is damaged, or no file of PyTorch's") as caught:
        jepa_jax.load(released, heads=3)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match="no file of PyTorch's"):
        jepa_jax.load(tmp_path / "text.pth")


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    file, trace = tmp_path / "code.pth.tar", tmp_path / "trace"
    content = {"target_encoder": {"patch_embed.proj.weight": Code(trace)}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"would run \w+\.mkdir, and so it was not read"):
        jepa_jax.load(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # it would have been run
