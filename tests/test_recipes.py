"""What the docstrings of recipes say to make is what the recipes read."""

import io
import re
import runpy
import tarfile
import textwrap

import numpy as np
import pytest
from sklearn.utils import Bunch

from jepa_jax.data.decoding import decode
from jepa_jax.data.sources import open_source
from tests.opening import labels
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
    for source in opened:
        assert decode(source[0], data.channels).shape == (*data.image_size, data.channels)
    return opened


def test_fashion_mnist(monkeypatch):
    def fetch_openml(name, *, version, as_frame, parser):
        assert (as_frame, parser) == (False, "liac-arff")  # all else wants pandas
        return Bunch(data=np.zeros((60_100, 784), np.uint8), target=np.full(60_100, "9", object))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    train, test = make_and_open("fashion_mnist")
    assert (len(train), len(test)) == (60_000, 100)
    assert labels(test) == [9] * 100


def test_cifar10():
    records = np.zeros((2, 3073), np.uint8)  # a label, and an image as planes of red, green, blue
    records[:, 0] = [1, 3]
    records[:, 1 : 1 + 1024] = 255
    with tarfile.open("cifar-10-binary.tar.gz", "w:gz") as tar:
        for name in ("batches.meta.txt", "data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = records.nbytes
            tar.addfile(member, io.BytesIO(records.tobytes()))
    train, test = make_and_open("cifar10_vits4")
    assert (len(train), len(test)) == (4, 2)
    assert test.classes == ("automobile", "cat")
    assert labels(test) == [0, 1]
    assert (decode(test[0], 3) == [255, 0, 0]).all()
