"""The paper's numbers beside ours."""

import pytest

from jepa_jax.evaluation.paper import paper_numbers
from tests.tiny import tiny


@pytest.mark.parametrize(
    ("protocol", "name", "number"),
    [
        ("linear", "imagenet2012", 79.3),
        ("linear_sweep", "imagenet2012", 79.3),
        ("lowshot", "imagenet2012", 73.3),
        ("finetune_few", "imagenet2012_subset/1pct", 73.3),
        ("linear", "imagenet2012_subset/1pct", 73.3),
        ("transfer", "imagenet2012", None),
        ("finetune", "imagenet2012", None),
        ("knn", "cifar100", None),
    ],
)
def test_a_number_is_of_the_same_protocol_and_images(protocol, name, number):
    data = tiny().data
    data.update(source="tfds", name=name)
    assert paper_numbers(protocol, data).get("ViT-H/14") == number


def test_digits_are_not_in_the_paper():
    assert paper_numbers("linear", tiny().data) == {}
