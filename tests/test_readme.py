"""What the README quotes is true; tests/test_docs.py runs its snippets."""

import importlib.util
import pathlib
import re

import pytest

from jepa_jax.errors import UserError
from jepa_jax.validation import validate

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        if not target.startswith("http") and target != "docs/performance.md":
            assert (ROOT / target).exists(), target
