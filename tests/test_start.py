"""How `processes.start` calls JAX, and what it answers where that fails. Nothing is joined."""

import os
from typing import Any

import jax
import pytest

from jepa_jax.parallel import processes

LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def environment(monkeypatch):
    """Sets variables; those of the launcher that runs the tests are gone."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*each) for each in variables.items()]


@pytest.fixture
def joined(monkeypatch) -> list[dict[str, Any]]:
    """The words of each call of `jax.distributed.initialize`, which does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **words: calls.append(words))
    return calls


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "CUDA_VISIBLE_DEVICES": "0"}, []),
        ({"SLURM_STEP_TASKS_PER_NODE": "4"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "SLURM_STEP_TASKS_PER_NODE": "1"}, None),
        ({}, None),
    ],
)
def test_gpus_of_a_process(environment, joined, variables: dict[str, str], gpus: list | None):
    environment(variables)
    processes.start("host:1234", 8, 3)
    assert joined[0]["local_device_ids"] == gpus
