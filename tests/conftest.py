"""Strictness for every test: no silent promotion of dtypes or ranks (see also pyproject.toml)."""

import os
import pathlib
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # runs keep no programs
# Models are tiny here: compiling takes longer than running. Of a step's nine seconds this leaves
# two, or seven with a later JAX, which ends at a flag that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""),
)

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A busy machine makes no example wrong.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of large files beside the checkout that some tests measure with."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED.name}/ beside the checkout")
    return SHARED


def pytest_configure(config):
    # pytest-xdist would put files of many tests first, whatever these take.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Several processes first: they take longest, and wait for what leaves a core to others."""
    items.sort(key=lambda item: "scale" not in item.path.parts)
