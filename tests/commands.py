"""The scripts of launch/, run as a user would."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def launch(
    script: str, *arguments: str, timeout: float | None = 300, **environment: str
) -> subprocess.CompletedProcess:
    """`python launch/SCRIPT.py`, in the repository's folder."""
    return subprocess.run(
        [sys.executable, f"launch/{script}.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )


def refused(script: str, *arguments: str, timeout: float | None = 300) -> str:
    """The one line that a wrong command is answered with."""
    result = launch(script, *arguments, timeout=timeout)
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]
