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


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'linear'"):
        choose(["liner"], [], PROTOCOLS)
