"""What the README shows is true."""

import importlib.util
import pathlib
import re

import pytest

from jepa_jax.errors import UserError
from jepa_jax.validation import validate

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_examples_run():
    # The other one, which wants a run, is run by tests/test_pretrained.py.
    [block] = re.findall(r"```python\n([^`]*masks\.sample.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["drawn"].context.shape == (8, 48)
    assert names["drawn"].targets.shape == (8, 4, 42)


def test_the_quoted_error_is_the_real_one():
    quoted = re.search(r"^error: (.*), …$", README, re.MULTILINE).group(1)
    spec = importlib.util.spec_from_file_location("vitb16", ROOT / "configs" / "vitb16.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    config = recipe.get_config()
    config.masks.num_context = 150
    with pytest.raises(UserError) as caught:
        validate(config)
    assert str(caught.value).startswith(quoted)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
