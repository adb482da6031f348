"""Compiled programs are kept where nobody else can put any."""

import os
import pathlib
import stat
import subprocess
import sys

import jax
import pytest

from jepa_jax.training.programs import CPU_INFO, VARIABLE, keep_programs

pytestmark = pytest.mark.skipif(not CPU_INFO.exists(), reason="needs Linux")

COMPILE = """
import pathlib, sys, jax
from jepa_jax.training.programs import keep_programs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
keep_programs(pathlib.Path(sys.argv[1]))
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event.split("/")[-1]))
jax.jit(lambda x: x + 1)(1.0)
print(sum(each == "cache_hits" for each in seen))
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", "")


def kept() -> str:
    return jax.config.jax_compilation_cache_dir


def test_the_second_process_need_not_compile(tmp_path):
    hits = [
        subprocess.run(
            [sys.executable, "-c", COMPILE, str(tmp_path / "programs")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]


def test_the_folder_is_the_users_alone(tmp_path):
    keep_programs(tmp_path / "programs")
    folder = pathlib.Path(kept())
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_used(tmp_path):
    keep_programs(tmp_path / "programs")
    folder = kept()
    jax.config.update("jax_compilation_cache_dir", "")
    os.chmod(folder, 0o770)
    keep_programs(tmp_path / "programs")
    assert not kept()


def test_another_place_counts(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    keep_programs(tmp_path / "programs")
    assert not list(tmp_path.iterdir())
