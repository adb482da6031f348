"""Recipes, and what each wrong setting is answered with."""

import importlib.util
import pathlib

import pytest
from ml_collections import ConfigDict

from jepa_jax.config import architecture, defaults, grid, mask_spec, mesh_shape
from jepa_jax.errors import UserError
from jepa_jax.validation import unknown_key, validate

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py"))


def load(name: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"--config=configs/{name}.py" in module.__doc__  # the command that starts it
    return module.get_config()


def changed(**values) -> ConfigDict:
    config = defaults()
    with config.unlocked():
        config.update_from_flattened_dict(
            {key.replace("__", "."): value for key, value in values.items()}
        )
    return config


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name: str):
    validate(load(name))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("vit")])
def test_published_recipes_keep_the_published_numbers(name: str):
    """Against the published YAML files: what they all share."""
    c = load(name)
    assert c.train.batch_size == 2048
    assert tuple(c.optim.ema) == (0.996, 1.0)
    assert (c.optim.weight_decay, c.optim.final_weight_decay) == (0.04, 0.4)
    rates = c.optim.start_learning_rate, c.optim.learning_rate, c.optim.final_learning_rate
    assert rates == (2e-4, 1e-3, 1e-6)
    assert tuple(c.data.crop_scale) == (0.3, 1.0)
    assert not c.data.flip
    assert c.predictor.width == 384
    spec = mask_spec(c)
    assert (spec.num_targets, spec.target_scale, spec.context_scale) == (4, (0.15, 0.2), (0.85, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data__image_size": (225, 224)}, "take 224 or 240 instead of 225"),
        ({"data__image_size": (224,)}, "data.image_size=.* must have 2 numbers"),
        ({"model__patch_size": 15}, "does not divide into patches"),
        ({"model__size": "vit_xl"}, "model.size='vit_xl' is none of .* nearest is 'vit_l'"),
        ({"model__heads": 7}, "model.width=768 does not divide .*take 6 heads"),
        ({"model__width": 770}, "take 768 or 772"),
        ({"predictor__heads": 5}, "predictor.width=384 does not divide"),
        ({"masks__num_context": 190}, "largest possible is"),
        ({"masks__style": "refernce"}, "nearest is 'reference'"),
        ({"data__image_size": (16, 16)}, "too small"),
        ({"loss": "mse"}, "loss='mse' is none of smooth_l1"),
        ({"train__batch_size": 2050, "train__accumulate": 4}, "take 2048"),
        ({"train__warmup_epochs": 400.0}, "longer than train.epochs=300$"),
        ({"optim__schedule_scale": 0.05}, "longer than .* optim.schedule_scale=0.05 allow"),
        ({"optim__learning_rate": 1e-4}, "start_learning_rate=0.0002 is above .*such as to 2e-05"),
        ({"train__epochs": 0.0}, "train.epochs=0.0 must be"),
        ({"optim__ema": (0.9, 1.5)}, "optim.ema=.* from 0 to 1"),
        ({"data__mean": (0.5,)}, "give one for each channel"),
        ({"data__crop_scale": (1.0, 0.3)}, r"must be \(low, high\)"),
        ({"data__interpolation": "bicubc"}, "none of bilinear, bicubic; the nearest is 'bicubic'"),
        ({"data__colour_jitter": 3.0}, "data.colour_jitter=3.0 must be from 0 to 2.5"),
        ({"data__greyscale": -0.1}, "data.greyscale=-0.1 must be from 0 to 1"),
        ({"data__blur": 2.0}, "data.blur=2.0 must be from 0 to 1"),
        (
            {
                "data__channels": 1,
                "data__mean": (0.5,),
                "data__std": (1.0,),
                "data__greyscale": 0.2,
            },
            "data.greyscale=0.2 is for RGB images, but data.channels=1: set it to 0",
        ),
        ({"data__mean": (123.7, 116.3, 103.5)}, "data.mean=.* must be from 0 to 1"),
        ({"data__std": (0.2, float("nan"), 0.2)}, "data.std=.* must be 1e-06 or more, and finite"),
        ({"model__mlp_ratio": 1e-4}, "leaves no hidden unit of model.width=768: take 0.0013 or"),
        ({"train__epochs": float("inf")}, "train.epochs=inf must be 1e-06 or more, and finite"),
        ({"optim__eps": 0.0}, "optim.eps=0.0 must be 1e-16 or more"),
        ({"optim__b2": 1 - 1e-9}, "optim.b2=.* must be from 0 to 0.999999"),
        (
            {"train__checkpoint_keep_every": 1500},
            "is no multiple of train.checkpoint_every=1000, .*: take 2000",
        ),
        ({"train__checkpoint_best": "knn"}, "needs probes .*: set probe.every_epochs, or"),
        (
            {
                "train__checkpoint_best": "linear",
                "data__test_split": "",
                "probe__every_epochs": 1.0,
            },
            "set data.test_split and probe.every_epochs, or",
        ),
        (
            {
                "train__checkpoint_best": "knn",
                "train__epochs": 50.0,
                "probe__every_epochs": 50.0,
            },
            "probe.every_epochs=50 below train.epochs=50, or",
        ),
        (
            {"data__path": "photos"},
            r"has no {split}.*, or hold some out \(data.validation=0.1\), or set test_split=''",
        ),
        ({"data__test_split": "train"}, "name another in place of one, or none"),
        ({"mesh__fsdp": 3}, "does not make 1 devices"),
        ({"seed": -1}, "seed=-1"),
        ({"optim__first_moment_dtype": "bf16"}, "the nearest is 'bfloat16'"),
        ({"model__target_dtype": "float8"}, "the nearest is 'float8_e4m3fn'"),
        ({"model__target_dtype": "float8_e4m3fn", "targets": "pixels"}, "does without"),
    ],
)
def test_impossible_values(values: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        validate(changed(**values))
    assert "\n" not in str(caught.value)


def test_a_rate_below_the_start_is_fine_without_a_warm_up():
    validate(changed(optim__learning_rate=1e-4, train__warmup_epochs=0.0))


def test_batch_must_divide_over_the_devices():
    with pytest.raises(UserError, match="does not divide over 3 devices"):
        validate(defaults(), devices=3)


def test_mesh_fills_in_what_is_left():
    config = changed(mesh__fsdp=4)
    assert mesh_shape(config, 8) == (2, 4, 1)


def test_unknown_keys_name_the_nearest():
    config = defaults()
    with config.unlocked():
        config.optim.learning_rat = 1.0
    with pytest.raises(UserError, match=r"no key 'optim.learning_rat'.*'optim.learning_rate'"):
        validate(config)
    assert unknown_key("optim.learning_rate") is None
    assert unknown_key("optim") is None
    assert "'masks.num_context'" in unknown_key("masks.num_contexts")
    assert "'train.epochs'" in unknown_key("epochs")


def test_missing_keys_are_named():
    config = defaults()
    with config.unlocked():
        del config.optim.eps
    with pytest.raises(UserError, match=r"lacks the key 'optim.eps'"):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.batch_size", 12.5, "a whole number"),
        ("data.flip", 1, "true or false"),
        ("loss", 3, "a text"),
        ("optim.ema", ("a", "b"), "numbers in parentheses"),
        ("optim.clip_norm", "much", "a number"),
    ],
)
def test_wrong_types(key: str, value, message: str):
    config = defaults()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"{key}=.* must be {message}"):
        validate(config)


def test_size_can_be_overridden_in_part():
    config = changed(model__depth=3)
    assert architecture(config) == {"width": 768, "depth": 3, "heads": 12, "mlp_ratio": 4.0}


def test_rectangular_grid():
    assert grid(changed(data__image_size=(96, 160))) == (6, 10)
