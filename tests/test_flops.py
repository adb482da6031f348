"""Our FLOPs against the products in the traced step and against XLA's own count."""

import re
import runpy

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from ml_collections import ConfigDict

from jepa_jax import flops, ijepa
from jepa_jax.compilation.step import batch_shapes
from jepa_jax.config import defaults
from jepa_jax.models import layers, transformer
from jepa_jax.parallel.sharding import make_mesh
from jepa_jax.training.setup import build_model
from tests.commands import ROOT


def recipe(**model) -> ConfigDict:
    """Narrow, but wide enough for the products to outweigh the rest."""
    c = defaults()
    c.data.image_size = (64, 96)
    c.model.width, c.model.heads, c.model.depth = 256, 2, 2
    c.model.mlp_ratio = 3.0
    c.model.dtype = "float32"
    c.predictor.width, c.predictor.depth = 128, 1
    c.train.batch_size = 8
    c.model.update(model)
    return c


def together() -> ConfigDict:
    """What is not done once for each block, or for each draw of masks."""
    c = recipe()
    c.predictor.depth, c.predictor.one_pass, c.train.draws = 2, True, 3
    return c


def of_pixels() -> ConfigDict:
    """Targets that need no target encoder."""
    c = recipe()
    c.targets = "pixels"
    return c


def regularized() -> ConfigDict:
    """With the features' covariance, a product of its own."""
    c = recipe()
    c.regularizer.variance, c.regularizer.covariance = 0.1, 0.01
    return c


def lowered(config: ConfigDict) -> tuple:
    model = build_model(config, 1)
    image = (*config.data.image_size, 3)
    state = jax.eval_shape(lambda: ijepa.init(model, jax.random.key(0), image))
    return model, state, batch_shapes(config, make_mesh((1, 1, 1), jax.devices()[:1]))


def product_flops(jaxpr) -> int:
    """2·m·k·n of all matrix products; a scan's body counts as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            inner = int(np.prod([left[axis] for axis in contracted]))
            total += 2 * inner * int(np.prod(equation.outvars[0].aval.shape))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += times * sum(map(product_flops, jaxprs_in_params(equation.params)))
    return total


@pytest.mark.parametrize(
    "config",
    [
        recipe(),
        recipe(size="vit_g", width=None, heads=None, depth=2),
        together(),
        of_pixels(),
        regularized(),
    ],
)
def test_they_are_those_of_the_traced_products(config: ConfigDict, monkeypatch):
    # On a CPU gradients of biases, which are sums, are products, too.
    for module in (layers, transformer):
        monkeypatch.setattr(module, "platform", lambda: "gpu")
    model, state, batch = lowered(config)
    traced = jax.make_jaxpr(lambda *args: ijepa.loss_and_gradient(model, *args))(state, batch)
    assert flops.step_flops(config) == product_flops(traced.jaxpr)


def test_xla_counts_little_more():
    """Only norms, softmaxes and the optimizer come on top of the products."""
    config = recipe(unroll=2)
    step = jax.jit(ijepa.train_step, static_argnums=0).lower(*lowered(config)).compile()
    assert 1.0 < step.cost_analysis()["flops"] / flops.step_flops(config) < 1.1


def test_the_table_of_recipes_is_up_to_date():
    text = (ROOT / "docs" / "performance.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d.,]+) ((?:\| \d+ % ){3})\|$", text, re.MULTILINE)
    assert len(rows) == 7
    for recipe, gigaflops, shares in rows:
        config = runpy.run_path(f"{ROOT}/configs/{recipe}.py")["get_config"]()
        parts = flops.flops_by_part(config).values()
        assert float(gigaflops.replace(",", "")) == pytest.approx(sum(parts) / 1e9, rel=0.02)
        assert re.findall(r"\d+", shares) == [f"{100 * part / sum(parts):.0f}" for part in parts]
