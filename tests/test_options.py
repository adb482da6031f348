"""Options of protocols from the command line."""

import pytest

from jepa_jax.errors import UserError
from jepa_jax.evaluation.options import choose
from jepa_jax.evaluation.protocols import PROTOCOLS


def options(*settings: str):
    return [given for _, given in choose(["knn", "finetune"], settings, PROTOCOLS)]


def test_values_have_the_type_of_the_default():
    knn, finetune = options(
        "knn.neighbours=1,7", "knn.temperature=1", "finetune.flip=no", "finetune.dtype=bfloat16"
    )
    assert (knn.neighbours, knn.temperature, knn.k) == ((1, 7), 1.0, 20)
    assert (finetune.flip, finetune.dtype) == (False, "bfloat16")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("knn.neighbors=3", "did you mean 'neighbours'"),
        ("knn.k=many", "'many' is not a whole number"),
        ("finetune.flip=perhaps", "is not true or false"),
        ("linear.l2=1", "--protocol names knn, finetune, not linear"),
        ("k=3", "write it as"),
    ],
)
def test_what_cannot_be_is_answered_in_one_line(setting, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        options(setting)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("linear_sweep.layers=", "layers: give one at least"),
        ("linear_sweep.layers=0,1", "layers=0: give a value above zero"),
        ("linear_sweep.learning_rates=", "learning_rates: give one at least"),
        ("linear_sweep.weight_decays=", "weight_decays: give one at least"),
        ("linear_sweep.epochs=0", "epochs=0: give a value above zero"),
        ("attentive.epochs=0", "epochs=0: give a value above zero"),
        ("attentive.learning_rates=-0.1", "learning_rates=-0.1: give a value above zero"),
        ("linear.l2=nan", "'nan' is not a number"),
        ("knn.temperature=inf", "'inf' is not a number"),
        ("knn.neighbours=0,5", "neighbours=0: give a value above zero"),
        ("finetune.dtype=bf16", "dtype=bf16 is none of float32, bfloat16"),
        ("finetune.batch_size=-4", "batch_size=-4: give a value above zero"),
        ("finetune.crop_scale=0.3", "crop_scale=0.3: give two shares"),
        ("finetune.drop_path=1", "drop_path=1: give a share below 1"),
        ("finetune_few.warmup_epochs=-1", "warmup_epochs=-1: give a value of zero or more"),
        ("segmentation.batch_size=0", "batch_size=0: give a value above zero"),
        ("transfer.by=linaer", "did you mean 'linear'"),
    ],
)
def test_values_that_cannot_be_are_found_before_anything_is_done(setting, complaint):
    protocol = setting.partition(".")[0]
    with pytest.raises(UserError, match=f"--set={protocol}.*{complaint}") as error:
        choose([protocol], [setting], PROTOCOLS)
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'linear'"):
        choose(["liner"], [], PROTOCOLS)
