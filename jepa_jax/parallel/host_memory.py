"""How a CPU that trains keeps the memory of one step for the next."""

import ctypes
import glob
import os
import sys

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# NVIDIA's, also in WSL; AMD's; TPUs. What laptops have, /dev/accel/accel0, is of no use to JAX.
ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd", "/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


def keep_freed_memory() -> bool:
    """Where the CPU computes, as one device, freed memory stays with the process; whether it does.

    XLA's CPU backend allocates the temporary memory of a step anew each time. What is larger than
    32 MB glibc asks of the kernel, and gives back: 180,000 page faults in a step of ViT-Ti/4 with
    64 images, of 2 µs each. The heap of the main thread can hold it instead; so steps have to
    run there, as they can't for several devices. To be called before JAX has devices.
    """
    if not sys.platform.startswith("linux") or not _computes_on_cpu() or _is_split():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None or not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1)):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True


def _computes_on_cpu() -> bool:
    """As far as that can be known before JAX looks for devices."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    return asked.split(",")[0] == "cpu" if asked else not any(map(glob.glob, ACCELERATORS))


def _is_split() -> bool:
    """Whether it is said how many devices the CPU is to be."""
    flags = os.environ.get("XLA_FLAGS", "")
    return "host_platform_device_count" in flags or jax.config.jax_num_cpu_devices > 0
