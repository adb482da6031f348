"""Options of XLA are those that it knows."""

import pytest

from jepa_jax.parallel.compiler import OPTIONS, compiler_options


@pytest.fixture(autouse=True)
def asked_anew():
    compiler_options.cache_clear()
    yield
    compiler_options.cache_clear()


def test_this_version_knows_the_options_for_cpus():
    assert compiler_options("cpu") == OPTIONS["cpu"]


def test_what_a_version_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(OPTIONS, "cpu", {"xla_cpu_no_such_option": "1"})
    assert compiler_options("cpu") == {}
