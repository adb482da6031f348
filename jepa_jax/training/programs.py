"""Compiled programs, kept in the folder of a run: only its first start compiles."""

import hashlib
import os
import pathlib

import jax
from etils import epath

from jepa_jax.training.storage import is_bucket

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
CPU_INFO = pathlib.Path("/proc/cpuinfo")


def keep_programs(folder: epath.Path) -> None:
    """Has JAX keep what it compiles from now on in `folder`, and look there before it compiles.

    Not where $JAX_COMPILATION_CACHE_DIR says where, or by being empty that nowhere. Programs are
    code: they are kept only in a local folder of this user's that nobody else may write, which is
    made if it isn't there. Those of a CPU are for its kind alone, and need Linux to tell which.
    """
    if VARIABLE in os.environ or is_bucket(folder):
        return
    own = pathlib.Path(folder)
    if jax.default_backend() == "cpu":
        if not CPU_INFO.exists():
            return
        own = pathlib.Path(f"{own}_{_kind_of_cpu(CPU_INFO.read_text())}")
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        about = own.lstat()
    except OSError:  # such as a full disk, which is told of where it matters
        return
    if about.st_uid == os.getuid() and not about.st_mode & 0o022:
        jax.config.update("jax_compilation_cache_dir", str(own))


def _kind_of_cpu(info: str) -> str:
    """A name for what a CPU can do, by what Linux tells of it."""
    names = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in info.splitlines() if line.startswith(names)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:8]
