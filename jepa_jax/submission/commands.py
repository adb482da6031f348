"""Commands of other programs."""

import re
import shutil
import subprocess
from collections.abc import Sequence

from jepa_jax.errors import UserError

INSTALL = {
    "git": "install it: it packs the code",
    "gcloud": "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then"
    " gcloud auth login",
    "kubectl": "install it (gcloud components install kubectl), then gcloud container clusters"
    " get-credentials CLUSTER",
    "xpk": "install it (pip install xpk), or leave --xpk out to use kubectl",
    "sbatch": "submit where SLURM is, such as on the login node of the cluster",
}


def require(*programs: str) -> None:
    """Raises a UserError that says where to get the first program that is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise UserError(f"{program} is not installed here: {INSTALL[program]}")


def call(command: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess:
    """Runs a command; what it says is returned."""
    return subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace")


def checked(command: Sequence[str], stdin: str = "") -> str:
    """What a command prints.

    Raises:
      UserError: if it fails, with the reason that it gives.
    """
    result = call(command, stdin)
    if result.returncode:
        raise UserError(f"{command[0]} failed: {reason(result)}")
    return result.stdout


def reason(result: subprocess.CompletedProcess) -> str:
    """The line of an error in which a program says why, without its own name.

    XPK says it on its standard output, before a line that it failed.
    """
    lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    start = re.compile(r"(\w+: )?(error|fatal)\b:? ?(\(gcloud[\w.-]*\) )?", re.IGNORECASE)
    errors = [start.sub("", line, count=1) for line in lines if start.match(line)]
    of_xpk = [line for line in result.stdout.splitlines() if line.startswith("[XPK] ")]
    of_xpk = [line.removeprefix("[XPK] ") for line in of_xpk if "XPK failed" not in line]
    return (errors or of_xpk[-1:] or lines or [f"exit code {result.returncode}"])[0]
