"""The peer in PyTorch equals the recorded run of the published code, as ours does."""

import json

import numpy as np
import pytest

from tests.test_reference import FIXTURES

torch = pytest.importorskip("torch", reason="needs jepa_jax[interop]")

from tests.peers.torch_ijepa import Batch, Sizes, Trainer, normalised  # noqa: E402

NETWORKS = ("encoder", "predictor", "target_encoder")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / "reference_run.npz"))


@pytest.fixture(scope="module", params=["plain", "best"])
def trained(request, recorded) -> tuple[Trainer, list[float]]:
    """After the twelve steps, and their losses."""
    trainer = Trainer(sizes(recorded), best=request.param == "best")
    for name, network in networks(trainer).items():
        network.load_state_dict(tensors(recorded, f"init/{name}/"))
    schedule = zip(
        *(recorded[f"trace/{x}"] for x in ("learning_rate", "weight_decay", "ema_momentum")),
        strict=True,
    )
    losses = [
        trainer.step(batch(recorded, number), *map(float, values)).item()
        for number, values in enumerate(schedule)
    ]
    return trainer, losses


def sizes(recorded) -> Sizes:
    c = json.loads(str(recorded["config"]))
    side = c["image_size"] // c["patch_size"]
    return Sizes(
        grid=(side, side),
        patch_size=c["patch_size"],
        channels=3,
        width=c["embed_dim"],
        depth=c["depth"],
        heads=c["num_heads"],
        mlp_ratio=c["mlp_ratio"],
        predictor_width=c["predictor_embed_dim"],
        predictor_depth=c["predictor_depth"],
        predictor_heads=c["num_heads"],
    )


def networks(trainer: Trainer) -> dict:
    return dict(zip(NETWORKS, (trainer.encoder, trainer.predictor, trainer.target), strict=True))


def tensors(recorded, prefix: str) -> dict:
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in recorded.items()
        if name.startswith(prefix)
    }


def batch(recorded, step: int) -> Batch:
    images, context, targets = (
        torch.from_numpy(recorded[f"step{step}/{name}"])
        for name in ("images", "context", "targets")
    )
    return Batch(images.permute(0, 3, 1, 2).contiguous(), context.long(), targets.long())


def test_bytes_are_normalised_in_the_step(recorded):
    found, trainer = batch(recorded, 0), Trainer(sizes(recorded), best=True)
    pixels = torch.randint(256, found.images.shape, dtype=torch.uint8)
    sent, beforehand = (found._replace(images=x) for x in (pixels, normalised(pixels)))
    assert torch.equal(trainer.loss(sent), trainer.loss(beforehand))
    assert normalised(pixels).std() == pytest.approx(1, rel=0.02)


def test_losses_of_twelve_steps(trained, recorded):
    np.testing.assert_allclose(trained[1], recorded["trace/loss"], rtol=1e-5)


def test_final_parameters(trained, recorded):
    for name, network in networks(trained[0]).items():
        final = tensors(recorded, f"final/{name}/")
        for key, value in network.state_dict().items():
            ours, theirs = value, final[key]
            if key.endswith("attn.qkv.bias"):  # the keys' part has no gradient but rounding
                ours, theirs = (x.view(3, -1)[[0, 2]] for x in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, atol=2e-4, err_msg=f"{name}/{key}")
