"""Several processes that train one model: how they find each other, and what they agree upon.

Each runs the same program on its own devices, and all must do together whatever moves data
between devices. So none may decide for itself when to stop or to save.
"""

import collections
import contextlib
import functools
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jepa_jax.errors import UserError
from jepa_jax.exits import HUNG

T = TypeVar("T")


def start(
    coordinator: str = "",
    processes: int | None = None,
    process: int | None = None,
    *,
    start_seconds: int = 300,
    heartbeat_seconds: int = 100,
) -> None:
    """Joins the processes of one run, if there are several; before anything asks for devices.

    Without the first three arguments, JAX finds out by itself on Cloud TPU, on GKE, under SLURM's
    srun and under Open MPI's mpirun; elsewhere this process is alone, unless another mpirun says
    that it is not. One that is alone where JAX takes the machine for a cluster says processes=1.

    Args:
      coordinator: HOST:PORT at which process 0 can be reached.
      processes: how many there are.
      process: which one this is, from 0.
      start_seconds: how long to wait for the others.
      heartbeat_seconds: after which one that is silent counts as dead, and ends the others.

    Raises:
      UserError: if the arguments do not say all, or the others can't be found or do not come up.
    """
    given = [coordinator or None, processes, process]
    if given == [None, 1, None]:
        return
    if any(value is not None for value in given):
        if None in given:
            raise UserError("--coordinator, --processes and --process go together: give all three")
        if not (":" in coordinator and coordinator.rpartition(":")[2].isdigit()):
            raise UserError(f"--coordinator={coordinator} is not HOST:PORT")
        if not 0 <= process < processes:
            raise UserError(f"--process={process} must be one of 0 to {processes - 1}")
        if process == 0:
            _check_free(coordinator)
    elif (os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("SLURM_NTASKS")) == "1":
        return  # mpirun's word counts: SLURM's may be of its helpers, one a node
    # It catches SIGTERM and tells nobody; one that comes before the loop listens must end the run.
    jax.config.update("jax_enable_preemption_service", False)
    patience = threading.Timer(start_seconds, _not_all_came, [start_seconds])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            *given,
            local_device_ids=_own_gpus(),
            initialization_timeout=start_seconds + 60,  # when it would abort, with a stack trace
            heartbeat_timeout_seconds=heartbeat_seconds,
        )
    except (ValueError, RuntimeError) as error:  # the latter of Kubernetes, MPI and the connection
        if "coordinator_address should be defined" not in str(error):
            reason = " ".join(str(error).split())
            ways = "give --coordinator, --processes and --process, or --processes=1 for one alone"
            raise UserError(
                f"the other processes cannot be found: {reason}"
                + ("" if coordinator else f"; {ways}")
            ) from error
        launched = os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("PMI_SIZE") or "1"
        if launched != "1":  # by Open MPI 5, or another MPI
            raise UserError(
                f"started as one of {launched} processes, which cannot find each other: give"
                " --coordinator, --processes and --process (under Open MPI 5 not needed with"
                " JAX 0.12 and mpi4py)"
            ) from error
    finally:
        patience.cancel()


def _not_all_came(seconds: float) -> None:
    print(
        f"error: not all processes came up within {seconds} seconds: look at the output of each,"
        " and whether process 0 can be reached from all hosts",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HUNG)


def _check_free(coordinator: str) -> None:
    """JAX would answer a port that is taken with a traceback, or, from 0.12, with a crash."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot listen at this port: take another"
            f" ({error})"
        ) from error


def _own_gpus() -> list[int] | None:
    """Which of the GPUs that it sees a process takes: [] is all of them, None is JAX's choice.

    That is one, by the process's rank on its node: right where all see all GPUs of the node. It is
    wrong for the only process of a node, and where each sees one (SLURM's --gpus-per-task=1). Of
    Open MPI 5 JAX doesn't know the rank, or only with mpi4py.
    """
    here = (
        os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
        or os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    )
    sees_one = "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")
    if here == "1" or (here and sees_one):
        return []
    rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK")
    return [int(rank)] if rank else None


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(value: Any) -> list[Any]:
    """What each process gives, for all of them: a list by process. It is sent as JSON."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def from_first(value: T) -> T:
    """What process 0 gives, as JSON, for all of them."""
    return gather(value if is_first() else None)[0]


def all_or_none(make: Callable[[], T]) -> T:
    """`make()`, unless a process cannot: then all say so and stop.

    `make` must not itself wait for other processes.

    Raises:
      UserError: of this process, or that another one has.
    """
    result, problem = None, None
    try:
        result = make()
    except UserError as error:
        problem = error
    problems = gather(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for process, text in enumerate(problems):
        if text is not None:
            raise UserError(f"process {process} cannot start: {text}")
    return result


@contextlib.contextmanager
def leaving_at_once():
    """Around what all do together: a process that fails there ends, and so the others do.

    To go through Python's usual exit, it would wait for those that wait for it.
    """
    try:
        yield
    except BaseException as problem:
        if jax.process_count() == 1:
            raise
        if isinstance(problem, UserError):
            print(f"error: {problem}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        if is_first():  # the others' line to each other: they may be about to say the same
            time.sleep(2)
        sys.stdout.flush()
        os._exit(problem.code if isinstance(problem, UserError) else 1)


class Wishes:
    """What any of the processes wishes, known to all of them at the same step.

    The answer travels beside the steps, and nobody waits for it: with several processes it is
    that of `behind` steps ago. A process alone is answered at once.
    """

    def __init__(self, behind: int):
        self._behind = behind
        self._sent: collections.deque[jax.Array] = collections.deque()

    def __call__(self, *wishes: bool) -> Sequence[bool]:
        """To be called by all at each step, with the same number of wishes."""
        if jax.process_count() == 1:
            return wishes
        mine = np.tile(np.array(wishes), (jax.local_device_count(), 1))
        self._sent.append(self._any(jax.make_array_from_process_local_data(self._shares, mine)))
        if len(self._sent) <= self._behind:
            return (False,) * len(wishes)
        return jax.device_get(self._sent.popleft()).tolist()

    # Made once: a function made anew would be compiled anew at each step.
    @functools.cached_property
    def _shares(self) -> NamedSharding:
        mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
        return NamedSharding(mesh, P("all"))

    @functools.cached_property
    def _any(self) -> Callable[[jax.Array], jax.Array]:
        everywhere = NamedSharding(self._shares.mesh, P())
        return jax.jit(lambda rows: jnp.any(rows, axis=0), out_shardings=everywhere)
