"""Shardings and collectives of the recipes are those that are written down (see dumps.py)."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest

from tests import dumps

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: jax[tpu]"
)


@pytest.mark.parametrize("name", dumps.RECIPES)
def test_shardings_are_as_written_down(name: str):
    assert dumps.shardings(name) == (dumps.SHARDINGS / f"{name}.txt").read_text()


@needs_libtpu
@pytest.mark.parametrize("run", [run for run in dumps.COMPILATIONS if run[0] == "digits"])
def test_a_small_recipe_compiles_as_written_down(run: tuple[str, str, int]):
    stored = json.loads(dumps.compiled_file(*run[:2]).read_text())
    versions = {package: metadata.version(package) for package in stored["compiler"]}
    if versions != stored["compiler"]:
        pytest.skip(f"written down with {stored['compiler']}, not with {versions}")
    program = f"import json\nfrom tests import dumps\nprint(json.dumps(dumps.compilation(*{run})))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=dumps.ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == stored


@pytest.mark.parametrize("run", dumps.COMPILATIONS)
def test_every_recipe_fits(run: tuple[str, str, int]):
    assert json.loads(dumps.compiled_file(*run[:2]).read_text())["fits"]
