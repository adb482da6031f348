"""What the docstrings of recipes say to make is what the recipes read."""

import re
import runpy
import textwrap

import numpy as np
import pytest
from sklearn.utils import Bunch

from jepa_jax.data.sources import open_source
from tests.snippets import ROOT


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_and_open(recipe):
    """Runs the Python of a recipe's docstring; the recipe's images, by split."""
    module = runpy.run_path(str(ROOT / "configs" / f"{recipe}.py"))
    [snippet] = re.findall(r"^    import .*\n(?:(?:    .*)?\n)*", module["__doc__"], re.MULTILINE)
    exec(textwrap.dedent(snippet), {})
    data = module["get_config"]().data
    opened = [open_source(data, split) for split in (data.train_split, data.test_split)]
    assert all(source[0].image.shape[:2] == data.image_size for source in opened)
    return opened


def test_fashion_mnist(monkeypatch):
    def fetch_openml(name, *, version, as_frame, parser):
        assert (as_frame, parser) == (False, "liac-arff")  # all else wants pandas
        return Bunch(data=np.zeros((60_100, 784), np.uint8), target=np.full(60_100, "9", object))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    train, test = make_and_open("fashion_mnist")
    assert (len(train), len(test)) == (60_000, 100)
    assert train.labels(np.arange(2)).tolist() == [9, 9]
