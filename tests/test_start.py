"""How `processes.start` calls JAX, and what it answers where that fails. Nothing is joined."""

import os
import socket
from typing import Any

import jax
import pytest

from jepa_jax.errors import UserError
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
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, [2]),
        ({}, None),
    ],
)
def test_gpus_of_a_process(environment, joined, variables: dict[str, str], gpus: list | None):
    environment(variables)
    processes.start("host:1234", 8, 3)
    assert joined[0]["local_device_ids"] == gpus


@pytest.fixture
def nobody(monkeypatch):
    """As JAX finds no other processes."""

    def initialize(*_, **words):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)


@pytest.mark.parametrize("size", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_one_of_several_does_not_train_alone(environment, nobody, size: str):
    environment({size: "4", "SLURM_NTASKS": "2"})
    with pytest.raises(UserError, match=r"one of 4 processes, .*: give --coordinator, "):
        processes.start()


@pytest.mark.parametrize("variables", [{}, {"SLURM_NTASKS": "4"}, {"PMI_SIZE": "1"}])
def test_one_that_no_launcher_has_started_is_alone(environment, nobody, variables: dict[str, str]):
    """SLURM_NTASKS is also set in an allocation, outside of srun."""
    environment(variables)
    processes.start()


@pytest.mark.parametrize(
    ("variables", "looks"),
    [
        ({"SLURM_NTASKS": "1"}, 0),
        ({"OMPI_COMM_WORLD_SIZE": "1", "SLURM_NTASKS": "2"}, 0),
        ({"OMPI_COMM_WORLD_SIZE": "4", "SLURM_NTASKS": "1"}, 1),
    ],
)
def test_the_only_one_looks_for_no_others(environment, joined, variables, looks: int):
    environment(variables)
    processes.start()
    assert len(joined) == looks


def test_one_that_says_so_looks_for_no_others(environment, joined):
    environment({"SLURM_NTASKS": "4"})
    processes.start(processes=1)
    assert not joined


def test_what_a_cluster_refuses_is_one_line(environment, monkeypatch):
    def initialize(*_, **words):
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden\nIt appears that the service")

    environment({})
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match="or --processes=1 for one alone") as caught:
        processes.start()
    assert "403 - Forbidden It appears" in str(caught.value)


def test_a_port_that_is_taken_is_named(environment, joined):
    environment({})
    with socket.create_server(("", 0)) as other:
        where = f"localhost:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--coordinator={where}: .*: take another"):
            processes.start(where, 2, 0)
    assert not joined
