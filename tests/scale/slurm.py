"""A SLURM cluster of one node on this machine: controller, node daemon and munge.

    python tests/scale/slurm.py sinfo

runs a command in it. Needs `apt-get install slurm-wlm munge`, and root; all its files lie in a
temporary folder, and its daemons end with the command.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
# A job waits so long before it begins again.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP OverSubscribe=FORCE
"""


def missing() -> str | None:
    """What keeps a cluster from being set up here."""
    lacking = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=_path())]
    if lacking:
        return f"needs {', '.join(lacking)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "needs root"


@contextlib.contextmanager
def cluster():
    """The environment in which SLURM's commands find the cluster."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        key, config = folder / "munge.key", folder / "slurm.conf"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        host = socket.gethostname().partition(".")[0]
        config.write_text(CONFIG.format(folder=folder, host=host, **ports))
        environment = os.environ | {"SLURM_CONF": str(config), "PATH": _path()}
        munge = {name: folder / f"munge.{name}" for name in ("socket", "pid", "seed", "log")}
        options = [f"--{name}-file={munge[name]}" for name in ("pid", "seed", "log")]
        for command in (
            [
                "munged",
                "-F",
                "--force",
                f"--key-file={key}",
                f"--socket={munge['socket']}",
                *options,
            ],
            ["slurmctld", "-D", "-f", config],
            ["slurmd", "-D", "-f", config, "-N", host],
        ):
            log = stack.enter_context((folder / f"{command[0]}.out").open("w"))
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
            time.sleep(1)
        _wait_for_the_node(environment, folder)
        yield environment


def _wait_for_the_node(environment: dict[str, str], folder: pathlib.Path) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    for _ in range(60):
        found = subprocess.run(command, env=environment, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "".join(file.read_text()[-2000:] for file in folder.glob("*.log"))
    raise RuntimeError(f"the node did not come up: {found.stdout}{found.stderr}\n{logs}")


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    if problem := missing():
        sys.exit(problem)
    with cluster() as here:
        sys.exit(subprocess.run(sys.argv[1:], env=here).returncode)
