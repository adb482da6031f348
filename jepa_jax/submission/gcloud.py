"""Asking Google Cloud: tried again while it does not answer, and its errors said in a line."""

import re
import subprocess
from collections.abc import Callable, Sequence

from jepa_jax.errors import UserError
from jepa_jax.submission.commands import call, reason

ABSENT = re.compile("NOT_FOUND|was not found")
PASSING = re.compile(
    "UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL|ABORTED|timed out|HTTPError 5"
    # No network here.
    "|Failed to resolve|NameResolution|NewConnectionError|Max retries exceeded"
    "|[Cc]onnection (aborted|reset)|Unable to find the server"
)
TRIES = 10
HINTS = {
    "UNAUTHENTICATED|auth login|active account": "gcloud auth login",
    "SERVICE_DISABLED|has not been used": "gcloud services enable tpu.googleapis.com",
    "PERMISSION_DENIED": "ask for the role roles/tpu.admin, or correct --project",
    "RESOURCE_EXHAUSTED|[Qq]uota": "ask for more quota, or take a smaller --topology",
}


def ask(command: Sequence[str], pause: Callable[[], None]) -> str | None:
    """What a command prints; None if what it asks for is not there.

    Raises:
      UserError: if it is refused, or if the service does not answer for long.
    """
    for _ in range(TRIES):
        result = call(command)
        if result.returncode == 0:
            return result.stdout
        if ABSENT.search(result.stderr):
            return None
        if not PASSING.search(result.stderr):
            break
        pause()
    raise UserError(f"gcloud: {explained(result)}")


def explained(result: subprocess.CompletedProcess) -> str:
    """Why a command failed and, where it is known, what to do."""
    hints = (hint for sign, hint in HINTS.items() if re.search(sign, result.stderr))
    return ": ".join([reason(result), *hints][:2])
