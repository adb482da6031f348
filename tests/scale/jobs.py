"""Real training processes that share four devices: started, signalled, and waited for."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from jepa_jax.training.jsonlines import JsonLines

ROOT = pathlib.Path(__file__).parents[2]
DEVICES = 4
TIMEOUT = 900  # seconds, of any wait
HEARTBEAT = 10  # seconds, after which those that lost one of them end
START = 90  # seconds, after which those who came up say that another one did not


class Job:
    """The processes of one start of `launch/train.py`. A context, which kills what is left of them.

    One process is started as several are: sums over devices then run in the same order, by the
    same library.

    Args:
      recipe: the file of the config.
      processes: among which the devices are shared.
      flags: more of them, for each process.
      cache: folder of compiled programs; None: each start compiles.
      missing: processes that do not come up.
    """

    def __init__(
        self,
        recipe: pathlib.Path,
        workdir: pathlib.Path,
        processes: int = 1,
        flags: Sequence[str] = (),
        *,
        cache: pathlib.Path | None = None,
        missing: Sequence[int] = (),
    ):
        self.workdir, self._began = workdir, time.time()
        self._events = JsonLines(workdir / "events.jsonl", event=str)
        self._seen, self._rows = None, []
        command = [sys.executable, ROOT / "launch" / "train.py", f"--config={recipe}"]
        command += [f"--workdir={workdir}", f"--coordinator=localhost:{free_port()}"]
        command += [f"--processes={processes}", f"--heartbeat_seconds={HEARTBEAT}"]
        command += [f"--start_seconds={START}", *flags]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(DEVICES // processes),
            "PYTHONPATH": str(ROOT),
        }
        if cache is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
            environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        workdir.mkdir(parents=True, exist_ok=True)
        self.processes: dict[int, subprocess.Popen] = {}
        for process in set(range(processes)) - set(missing):
            with self._file(process).open("w") as output:
                self.processes[process] = subprocess.Popen(
                    [*command, f"--process={process}"],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _file(self, process: int) -> pathlib.Path:
        return self.workdir / f"output_{process}.txt"

    def events(self) -> list[dict]:
        """Those of this start."""
        file = self.workdir / "events.jsonl"
        seen = file.stat().st_mtime_ns if file.exists() else None
        if seen != self._seen:
            self._seen = seen
            self._rows = [row for row in self._events.rows() if row["time"] >= self._began]
        return self._rows

    def told(self, event: str, times: int = 1) -> bool:
        """Whether an event came about so often."""
        return sum(row["event"] == event for row in self.events()) >= times

    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes.values())

    def until(self, happened: Callable[[], bool]) -> None:
        """Waits for it, or for the end of the job."""
        deadline = time.monotonic() + TIMEOUT
        while not (self.ended() or happened()):
            if time.monotonic() > deadline:
                raise TimeoutError(self.output())
            time.sleep(0.002)

    def send(self, number: signal.Signals, *which: int) -> None:
        """A signal to some of the processes."""
        for process in which:
            self.processes[process].send_signal(number)

    def codes(self) -> tuple[int, ...]:
        """The exit code of each process, once all have ended."""
        try:
            return tuple(process.wait(TIMEOUT) for process in self.processes.values())
        except subprocess.TimeoutExpired:
            raise TimeoutError(self.output()) from None

    def output(self, *which: int) -> str:
        """What they printed, of all processes or of some."""
        return "\n".join(self._file(each).read_text() for each in which or self.processes)


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
