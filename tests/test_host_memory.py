"""Memory that is freed stays with the process, where the CPU computes."""

import os
import platform
import subprocess
import sys

import pytest

from jepa_jax.parallel import host_memory

FAULTS = """
import resource
from jepa_jax.parallel.host_memory import keep_freed_memory
kept = {call}
import jax
import jax.numpy as jnp
x = jnp.ones((64, 4096))
step = jax.jit(lambda x: jnp.exp(x.T @ x) @ x.T)  # by way of 64 MB
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, faults[-1])
"""


def faults(call: str, platforms: str = "cpu") -> tuple[str, int]:
    """Page faults of a step that needs 64 MB, the fourth of its kind."""
    result = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": platforms},
    )
    kept, number = result.stdout.split()
    return kept, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what is told")
def test_large_blocks_are_not_asked_of_the_kernel_again():
    kept, few = faults("keep_freed_memory()")
    assert kept == "True"
    assert few < 1000
    assert faults("None")[1] > 10_000  # so there is something to keep


def test_a_machine_with_an_accelerator_is_left_alone(monkeypatch):
    assert faults("keep_freed_memory()", "cuda,cpu")[0] == "False"
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(host_memory, "ACCELERATORS", (__file__,))
    assert not host_memory.keep_freed_memory()
