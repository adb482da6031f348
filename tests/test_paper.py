"""The paper's numbers beside ours."""

import pytest

from jepa_jax.data.transforms import EvalView
from jepa_jax.evaluation.paper import encoder_name, paper_numbers
from jepa_jax.ijepa import IJEPA
from jepa_jax.models.vit import SIZES, Encoder
from jepa_jax.pretrained import Backbone, Pretrained
from tests.tiny import tiny


@pytest.mark.parametrize(
    ("protocol", "name", "number"),
    [
        ("linear", "imagenet2012", 79.3),
        ("linear_sweep", "imagenet2012", 79.3),
        ("linear", "imagenet2012:5.1.0", 79.3),
        ("linear", "imagenet2012_subset/10pct", None),
        ("linear", "imagenet2012_corrupted", None),
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


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("data/imagenet/{split}", 79.3),
        ("ImageNet-1k/ILSVRC/Data/CLS-LOC/{split}", 79.3),
        ("data/imagenet_{split}.zip", 79.3),
        ("data/imagenet2012/5.1.0/*-{split}.array_record*", 79.3),
        ("/data/imagenet/{split}-00000-of-01024.array_record", 79.3),
        ("data/tiny-imagenet/{split}", None),
        ("data/imagenet-100/{split}", None),
        ("data/imagenet-r", None),
        ("/home/imagenet/flowers/{split}", None),
    ],
)
def test_a_folder_has_the_number_of_what_it_is_called(path, number):
    data = tiny().data
    data.update(source="folder", path=path)
    assert paper_numbers("linear", data).get("ViT-H/14") == number


def test_clevr_has_the_papers_number_in_its_own_folder():
    data = tiny().data
    data.update(source="clevr", path="data/CLEVR_v1.0/images/{split}")
    assert paper_numbers("clevr_count", data)["ViT-H/14"] == 86.7


def test_few_labels_have_the_papers_number_if_they_are_as_few():
    data = tiny().data
    data.update(source="tfds", name="imagenet2012")
    for row in ("1 % of each class (12811 images)", "a/1percent.txt (12811 images)"):
        assert paper_numbers("lowshot", data, row)["ViT-H/14"] == 73.3
    for row in ("10 % of each class (128117 images)", "1percent/10percent.txt (128117 images)"):
        assert paper_numbers("lowshot", data, row) == {}


def test_digits_are_not_in_the_paper():
    assert paper_numbers("linear", tiny().data) == {}


def name(size: str, patch: int, **about) -> str:
    backbone = Backbone(Encoder(*SIZES[size][:3], patch), IJEPA.mean, IJEPA.std)
    return encoder_name(Pretrained(backbone, None, EvalView((224, 224), 3), about=about))


def test_an_encoder_of_imagenet_22k_has_numbers_of_its_own():
    assert name("vit_h", 14, source="IN1K-vit.h.14-300e.pth.tar") == "ViT-H/14"
    huge = name("vit_h", 14, source="IN22K-vit.h.14-900e.pth.tar")
    giant = name("vit_g", 16, source="ijepa_vitg16_22k")
    data = tiny().data
    data.update(source="tfds", name="cifar100")
    numbers = paper_numbers("linear", data)
    assert (huge, numbers[huge]) == ("ViT-H/14, IN22k", 89.5)
    assert (giant, numbers[giant]) == ("ViT-G/16, IN22k", 89.5)
    config = {"data": {"name": "", "path": "data/imagenet22k/{split}"}}
    assert name("vit_h", 14, source="a run of jepa_jax", config=config) == huge


def test_an_untrained_encoder_is_none_of_the_papers():
    assert name("vit_h", 14) == ""


def test_fine_tuning_has_the_papers_number():
    data = tiny().data
    data.update(source="tfds", name="imagenet2012")
    assert paper_numbers("finetune", data) == {"ViT-H/16 at 448": 87.1}
