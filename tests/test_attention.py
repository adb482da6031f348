"""The kernels behind the one attention give what is written out, and go where they can."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jepa_jax.models import attention as seam
from jepa_jax.models.attention import attention, attention_by_block, kernel
from jepa_jax.models.attention_kernels import splash
from jepa_jax.parallel.sharding import make_mesh


def arrays(asked: int, tokens: int, heads: int = 2, width: int = 16, dtype="float32"):
    """Query, key and value (3, heads, asked | tokens, width)."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [
        jax.random.normal(key, (3, heads, number, width), dtype)
        for key, number in zip(keys, (asked, tokens, tokens), strict=True)
    ]


interpreted = functools.partial(splash, interpret=True)


def value_and_gradients(function, *qkv):
    def total(*qkv):
        return jnp.square(function(*qkv)).sum()

    return function(*qkv), *jax.grad(total, argnums=(0, 1, 2))(*qkv)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.fixture
def on_cudnn(monkeypatch):
    """As on a GPU, but that JAX's function writes out what it would have cuDNN do."""
    asked = []

    def written_out(*arguments, implementation, **lengths):
        asked.append(implementation)
        return _of_jax(*arguments, implementation="xla", **lengths)

    _of_jax = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", written_out)
    monkeypatch.setattr(seam, "platform", lambda: "gpu")
    monkeypatch.setattr(seam, "cudnn_takes", lambda query: True)
    monkeypatch.setattr(seam, "CUDNN_FROM", 1)
    return asked


LENGTHS = [None, jnp.asarray([5, 12, 9], jnp.int32)]


@pytest.mark.parametrize("length", LENGTHS, ids=["all", "lengths"])
def test_cudnn_is_asked_for_the_same(on_cudnn, length):
    qkv = arrays(asked=7, tokens=12)
    found = value_and_gradients(functools.partial(attention, length=length), *qkv)
    written_out = functools.partial(attention, length=length, choice="xla")
    assert_same(found, value_and_gradients(written_out, *qkv))
    assert set(on_cudnn) == {"cudnn"}


def test_cudnn_serves_blocks_of_one_pass(on_cudnn, monkeypatch):
    unmapped = jax.custom_batching.custom_vmap(seam.cudnn)
    monkeypatch.setattr(seam, "cudnn", unmapped)

    @unmapped.def_vmap
    def refuse(*_):  # as cuDNN's does where the mapped axis isn't the first
        raise NotImplementedError

    qkv, length = arrays(10, 10), jnp.asarray([[3, 1], [2, 2], [3, 3]], jnp.int32)
    found = attention_by_block(*qkv, length, 3)
    np.testing.assert_allclose(found, attention_by_block(*qkv, length, 3, "xla"), atol=1e-5)
    assert set(on_cudnn) == {"cudnn"}


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "taken"),
    [
        ("8.0", "bfloat16", 80, True),
        ("9.0", "float16", 64, True),
        ("7.5", "bfloat16", 64, False),
        ("8.0", "float32", 64, False),
        ("8.0", "bfloat16", 20, False),
        ("8.0", "bfloat16", 136, False),
        ("gfx90a", "bfloat16", 64, False),
    ],
)
def test_where_cudnn_does_not_take_it_it_is_written_out(
    monkeypatch, capability, dtype, width, taken
):
    monkeypatch.setattr(seam, "platform", lambda: "gpu")
    monkeypatch.setattr(
        jax, "local_devices", lambda: [SimpleNamespace(compute_capability=capability)]
    )
    query, key, _ = arrays(2, seam.CUDNN_FROM, width=width, dtype=dtype)
    for choice in ("auto", "fused"):
        assert kernel(choice, query, key).__name__ == ("cudnn" if taken else "xla")
    assert kernel("xla", query, key) is seam.xla


def test_a_gpu_writes_short_sequences_out(monkeypatch):
    monkeypatch.setattr(seam, "platform", lambda: "gpu")
    monkeypatch.setattr(seam, "cudnn_takes", lambda query: True)
    query, key, _ = arrays(2, seam.CUDNN_FROM - 1)
    assert kernel("auto", query, key) is seam.xla
    assert kernel("fused", query, key).__name__ == "cudnn"


def test_a_tpu_splashes_long_sequences(monkeypatch):
    monkeypatch.setattr(seam, "platform", lambda: "tpu")
    long, short = (jnp.zeros((1, 1, tokens, 8)) for tokens in (seam.SPLASH_FROM, 256))
    assert kernel("auto", long, long) is splash
    assert kernel("auto", short, short) is seam.xla
    assert kernel("fused", short, short) is splash


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_what_a_replica_accumulates_by_itself_is_written_out(monkeypatch, backend):
    monkeypatch.setattr(seam, "platform", lambda: backend)
    monkeypatch.setattr(seam, "cudnn_takes", lambda query: True)
    chosen = []

    def local(query):
        chosen.append(kernel("fused", query, query))
        return query

    rows = P("replica")
    mapped = jax.shard_map(local, axis_names={"replica"}, in_specs=rows, out_specs=rows)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        jax.eval_shape(mapped, jnp.zeros((2, 1, 8, 8)))
    assert chosen == [seam.xla]


@pytest.mark.parametrize("length", LENGTHS, ids=["all", "lengths"])
def test_splash_is_the_same(length):
    qkv = arrays(asked=7, tokens=12, heads=1)
    found = value_and_gradients(functools.partial(interpreted, length=length), *qkv)
    written_out = functools.partial(attention, length=length, choice="xla")
    assert_same(found, value_and_gradients(written_out, *qkv))


def test_splash_serves_blocks_of_one_pass(monkeypatch):
    monkeypatch.setattr(seam, "platform", lambda: "tpu")
    qkv, length = arrays(10, 10, heads=1), jnp.asarray([[3, 1], [2, 2], [3, 3]], jnp.int32)
    monkeypatch.setattr(seam, "splash", interpreted)
    found = attention_by_block(*qkv, length, 3, "fused")
    np.testing.assert_allclose(found, attention_by_block(*qkv, length, 3, "xla"), atol=1e-5)


def test_splash_on_a_mesh():
    qkv = arrays(asked=7, tokens=12, heads=1)
    with jax.set_mesh(make_mesh((1, 1, 1))):
        found = jax.jit(interpreted)(*qkv, None)
    np.testing.assert_allclose(found, attention(*qkv), atol=1e-5)
