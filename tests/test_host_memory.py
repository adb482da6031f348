"""Memory that is freed stays with the process, where the CPU computes."""

import fnmatch
import os
import pathlib
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from jepa_jax.ijepa import Batch
from jepa_jax.masks import MaskSpec, sample
from jepa_jax.parallel import host_memory
from jepa_jax.parallel.sharding import batch_sharding, make_mesh
from jepa_jax.training.batches import to_devices

FAULTS = """
import resource
from jepa_jax.parallel.host_memory import keep_freed_memory
kept = {call}
import jax
import jax.numpy as jnp
x = jnp.ones((64, 4096))
step = jax.jit(lambda x: jnp.exp(x.T @ x) @ x.T)  # by way of 64 MB
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults))
"""


def faults(call: str, platforms: str = "cpu") -> tuple[str, int]:
    """Page faults of the step that has the fewest, of ten that need 64 MB."""
    result = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": platforms},
    )
    kept, number = result.stdout.split()
    return kept, int(number)


def huge_pages() -> bool:
    """Whether the kernel gives pages of 2 MB to whoever asks for much."""
    setting = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.exists() and "[always]" in setting.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is what is told")
@pytest.mark.skipif(huge_pages(), reason="with pages of 2 MB there are few faults in any case")
def test_large_blocks_are_not_asked_of_the_kernel_again():
    kept, few = faults("keep_freed_memory()")
    assert kept == "True"
    assert few < 1000
    assert faults("None")[1] > 10_000  # so there is something to keep


def test_a_step_need_not_wait_for_its_batch_in_another_thread():
    images = np.zeros((16, 512, 1024, 3), np.uint8)  # so many that they are copied meanwhile
    masks = sample(jax.random.key(0), MaskSpec((8, 8)), len(images))
    placed = to_devices(Batch(images, masks), batch_sharding(make_mesh((1, 1, 1))))
    assert all(leaf.is_ready() for leaf in jax.tree.leaves(placed))


def test_a_machine_with_an_accelerator_is_left_alone(monkeypatch):
    assert faults("keep_freed_memory()", "cuda,cpu")[0] == "False"
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(host_memory, "ACCELERATORS", (__file__,))
    assert not host_memory.keep_freed_memory()


@pytest.mark.parametrize(("path", "known"), [("/dev/accel0", True), ("/dev/accel", False)])
def test_what_accelerates_a_laptop_is_no_tpu(path: str, known: bool):
    assert any(fnmatch.fnmatch(path, each) for each in host_memory.ACCELERATORS) is known


def test_a_cpu_that_is_split_into_devices_is_left_alone(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert not host_memory.keep_freed_memory()
