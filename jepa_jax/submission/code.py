"""The code that travels: an archive of one commit, with the commit in its name."""

import dataclasses
import pathlib
import subprocess

from jepa_jax.errors import UserError
from jepa_jax.submission.commands import call, reason, require

ROOT = pathlib.Path(__file__).parents[2]  # of the repository
RUNS = ("jepa_jax", "launch", "configs", "setup.cfg", "pyproject.toml")  # what of it is run


@dataclasses.dataclass(frozen=True)
class Code:
    """A commit of the repository at `root`."""

    commit: str  # the whole hash
    root: pathlib.Path = ROOT

    @property
    def name(self) -> str:
        return f"jepa_jax-{self.commit[:12]}"

    def archive(self, file: pathlib.Path, kind: str = "tar.gz") -> list[str]:
        """The command that writes the archive, whose files lie in a folder `name`."""
        return [
            *("git", "-C", str(self.root), "archive", f"--format={kind}"),
            *(f"--prefix={self.name}/", f"--output={file}", self.commit),
        ]


def pinned(revision: str | None, recipe: str, root: pathlib.Path = ROOT) -> Code:
    """The code of `revision`, or of HEAD if nothing is changed since.

    Args:
      recipe: a file that must be part of it.

    Raises:
      UserError: if that is not what one would expect to run.
    """
    if not (root / ".git").exists():
        raise UserError(f"{root} is no git checkout, so its code has no name: git clone it")
    head = _git(root, "rev-parse", "--verify", f"{revision or 'HEAD'}^{{commit}}")
    if head.returncode:
        raise UserError(f"--commit={revision or 'HEAD'} is no commit here: {reason(head)}")
    path = recipe.partition(":")[0]
    changed = _git(root, "status", "--porcelain", "--", *RUNS, path).stdout
    if revision is None and changed:
        files = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise UserError(
            f"what is not committed would not travel ({files}): commit it, or name what is to"
            " run, such as --commit=HEAD"
        )
    commit = head.stdout.strip()
    if _git(root, "ls-tree", "--name-only", commit, "--", path).stdout.rstrip("\n") != path:
        raise UserError(
            f"{path} is not part of commit {commit[:12]} and would not travel: git add and"
            " commit it"
        )
    return Code(commit, root)


def _git(root: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    require("git")
    return call(["git", "-C", str(root), "-c", "core.quotePath=false", *words])
