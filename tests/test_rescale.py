"""A recipe for another batch size."""

import math

import numpy as np
import pytest

from jepa_jax.config import changed
from jepa_jax.errors import UserError
from jepa_jax.rescale import rescaling
from jepa_jax.training.setup import build_model
from tests.commands import launch
from tests.tiny import tiny


def rescaled(config, *wish):
    return changed(config, rescaling(config, *wish))


def half_life(config) -> float:
    """Images after which the target encoder has forgotten half, at the first step."""
    return config.train.batch_size * math.log(0.5) / math.log(config.optim.ema[0])


@pytest.mark.parametrize(("batch", "rule"), [(16, "sqrt"), (256, "sqrt"), (256, "linear")])
def test_what_is_counted_in_images_stays(batch, rule):
    old = tiny()
    new = rescaled(old, batch, rule)
    assert half_life(new) == pytest.approx(half_life(old))
    decay = [c.optim.learning_rate * c.optim.weight_decay / c.train.batch_size for c in (old, new)]
    assert decay[0] == pytest.approx(decay[1])
    assert old.train.batch_size == 64  # it is left as it was


def test_the_learning_rate_follows_the_batch():
    rate = tiny().optim.learning_rate
    assert rescaled(tiny(), 256).optim.learning_rate == pytest.approx(2 * rate)
    assert rescaled(tiny(), 16).optim.learning_rate == pytest.approx(rate / 2)
    assert rescaled(tiny(), 256, "linear").optim.learning_rate == pytest.approx(4 * rate)


def test_warm_up_and_end_come_after_the_same_images():
    old, new = (build_model(c, 4096 // c.train.batch_size) for c in (tiny(), rescaled(tiny(), 16)))
    for name in ("steps", "warmup_steps"):
        images = [getattr(old.schedules, name) * 64, getattr(new.schedules, name) * 16]
        assert images[0] == pytest.approx(images[1], abs=64)


def test_there_and_back_is_the_recipe():
    back = rescaled(rescaled(tiny(), 256), 64)
    for key, value in tiny().optim.items():
        if isinstance(value, tuple | float):
            np.testing.assert_allclose(back.optim[key], value, rtol=1e-12)


def test_wrong_wishes():
    with pytest.raises(UserError, match="give 1 or more"):
        rescaled(tiny(), 0)
    for empty in (0, -64):
        with pytest.raises(UserError, match=f"a batch of {empty} images: give 1 or more"):
            rescaled(changed(tiny(), {"train.batch_size": empty}), 256)
    with pytest.raises(UserError, match="did you mean 'sqrt'"):
        rescaled(tiny(), 8, "sqr")


def test_the_command_tells_what_it_changes(tmp_path):
    result = launch(
        "train",
        "--config=configs/digits.py",
        "--rescale=16",
        f"--workdir={tmp_path / 'file'}",
        "--config.data.source=digit",  # ends it before anything is compiled
    )
    assert result.returncode == 2
    assert "rescaled: train.batch_size=16, optim.learning_rate=0.00025" in result.stdout
