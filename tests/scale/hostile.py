"""Hostile and damaged input, many times: configs, images, archives, arrays, records, run folders.

    python -m tests.scale.hostile [TRIALS] [KIND …]

Each trial must end within a minute, in what it would have given or in a UserError, and run no code
that came with its input. Prints a table and every exception that was neither; exit code 1 if any.
"""

import collections
import contextlib
import functools
import io
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image
from rich.console import Console
from rich.table import Table

from jepa_jax.config import defaults
from jepa_jax.data.decoding import decode
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.training import loop
from jepa_jax.validation import validate
from tests.packing import make_tar, make_zip
from tests.pictures import POSSIBLE, saved
from tests.tiny import tiny

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 60
MARK = "code_was_run"
VALUES = (
    None, True, 0, -1, 1, 3, 10**12, -(10**30), 0.5, float("nan"), float("inf"), -1e-300, 1e300,
    "", "x", "__import__('os').system('touch code_was_run')", "../../etc", "\x00", "a" * 10**5,
    (), (1,), (0, 0), (224, 224), (1, 2, 3), (-1, "x"), ((),), ("read", {}), {"a": 1},
)  # fmt: skip


class Code:
    """Pickles to a call that leaves a mark."""

    def __reduce__(self):
        return os.system, (f"touch {MARK}",)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, with flipped bits, with a part doubled or replaced by noise, or with words swapped."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data) or 1)
        match rng.randrange(6):
            case 0:
                del data[place:]
            case 1:
                for _ in range(8):
                    if data:
                        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 2:
                data[place:place] = data[place : place + rng.randrange(1, 200)]
            case 3:
                data[place : place + 8] = rng.randbytes(8)
            case 4:
                del data[place : place + rng.randrange(1, 50)]
            case 5:
                data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b'"}],', b"NaN,"))
    return bytes(data)


def config(folder: pathlib.Path, rng: random.Random) -> None:
    c = tiny()
    known = sorted(flatten_dict(defaults().to_dict(), sep="."))
    for key in rng.sample(known, rng.choice((1, 1, 2, 4))):
        *sections, name = key.split(".")
        section = c
        for part in sections:
            section = section[part]
        with section.unlocked(), section.ignore_type():
            section[name] = rng.choice(VALUES)
    validate(c)
    if c.model.depth and c.model.depth * (c.model.width or 1) < 10**5:
        loop.prepare(c, str(folder / "run"))


def image(folder: pathlib.Path, rng: random.Random) -> None:
    mode, kind = rng.choice(POSSIBLE)
    example = saved(mode, (rng.randrange(1, 90), rng.randrange(1, 90)), kind)
    decode(example._replace(image=damaged(example.image, rng)), rng.choice((1, 3)))


def archive(folder: pathlib.Path, rng: random.Random) -> None:
    names = ["a/1.png", "a/2.png", "b/3.png", "../../up.png", "/tmp/root.png", "b/\udcff.png", "b"]
    file = io.BytesIO()
    Image.effect_noise((9, 9), 50).save(file, "png")
    members = dict.fromkeys(rng.sample(names, rng.randrange(1, len(names))), file.getvalue())
    kind = rng.choice(("zip", "tar", "tar.gz"))
    path = folder / f"x.{kind}"
    with contextlib.suppress(UnicodeEncodeError):
        if kind == "zip":
            make_zip(path, members)
        else:
            make_tar(path, members, "w:gz" if kind == "tar.gz" else "w")
        path.write_bytes(damaged(path.read_bytes(), rng))
        read(folder, rng, path=str(path))


def arrays(folder: pathlib.Path, rng: random.Random) -> None:
    images = np.zeros((5, 4, 4, 1), np.uint8)
    labels = np.array([Code()] * 5, object) if rng.random() < 0.5 else np.arange(5)
    np.savez(folder / "x.npz", images=images, labels=labels, train_images=images)
    if rng.random() < 0.7:
        (folder / "x.npz").write_bytes(damaged((folder / "x.npz").read_bytes(), rng))
    if rng.random() < 0.1:
        (folder / "x.npz").write_bytes(pickle.dumps(Code()))
    read(folder, rng, source="npz", path=str(folder / "x.npz"))


def records(folder: pathlib.Path, rng: random.Random) -> None:
    shutil.copytree(made(_records), folder / "records")
    files = [file for file in (folder / "records").rglob("*") if file.is_file()]
    victim = rng.choice(files)
    victim.write_bytes(damaged(victim.read_bytes(), rng))
    if rng.random() < 0.5:
        read(folder, rng, source="tfds", name="x:1.0.0", path=str(folder / "records"))
    else:
        read(
            folder,
            rng,
            source="array_record",
            path=str(folder / "records/x/1.0.0/x-train.array_record*"),
        )


def run(folder: pathlib.Path, rng: random.Random) -> None:
    """A stopped run of which one file is not what it was."""
    shutil.copytree(made(_run), folder / "run")
    files = [file for file in (folder / "run").rglob("*") if file.is_file()]
    small = [file for file in files if file.parent == folder / "run" or "about" in str(file)]
    victim = rng.choice(small if rng.random() < 0.7 else files)
    victim.write_bytes(damaged(victim.read_bytes(), rng))
    resumed = loop.prepare(_recipe(), str(folder / "run"))
    loop.claim(resumed, (), finished=False)
    loop.restore(resumed)


def read(folder: pathlib.Path, rng: random.Random, **data) -> None:
    """Opens a source and looks at all of it."""
    c = defaults().data
    c.update({"test_split": "", **data})
    source = open_source(c, "train")
    if source.labelled:
        source.labels(np.arange(len(source)))
    for index in range(min(len(source), 20)):
        with contextlib.suppress(UserError):
            decode(source[index], 3)


def _recipe():
    c = tiny()
    c.data.test_split = ""
    c.train.epochs, c.train.log_every, c.train.checkpoint_every = 0.5, 1, 4
    return c


def _run(folder: pathlib.Path) -> None:
    loop.train(_recipe(), str(folder))
    (folder / "results.json").unlink()


def _records(folder: pathlib.Path) -> None:
    np.savez(folder / "x.npz", images=np.zeros((9, 8, 8, 3), np.uint8), labels=np.arange(9) % 3)
    command = [sys.executable, ROOT / "launch" / "prepare.py", "--from=x.npz", "--to=x"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@functools.cache
def made(make) -> pathlib.Path:
    """What all trials of a kind begin with."""
    folder = pathlib.Path(tempfile.mkdtemp())
    make(folder)
    return folder


KINDS = {each.__name__: each for each in (config, image, archive, arrays, records, run)}
BEFORE = {"records": (_records,), "run": (_run,)}


def hang(*_):
    raise TimeoutError(f"no end after {SECONDS} seconds")


def main(trials: int, kinds: list[str]) -> int:
    signal.signal(signal.SIGALRM, hang)
    table = Table("input", "trials", "read", "refused", "other errors", "code run")
    problems = 0
    for kind in kinds:
        ends = collections.Counter()
        for make in BEFORE.get(kind, ()):
            with contextlib.redirect_stdout(io.StringIO()):
                made(make)
        for trial in range(trials):
            rng = random.Random(f"{kind} {trial}")
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                signal.alarm(SECONDS)
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        KINDS[kind](pathlib.Path(folder), rng)
                    ends["read"] += 1
                except UserError:
                    ends["refused"] += 1
                except Exception:
                    ends["other"] += 1
                    print(f"{kind} {trial}", traceback.format_exc(limit=-6), file=sys.stderr)
                finally:
                    signal.alarm(0)
                ends["code"] += os.path.exists(MARK)
        problems += ends["other"] + ends["code"]
        table.add_row(
            kind,
            *(str(n) for n in (trials, *(ends[e] for e in ("read", "refused", "other", "code")))),
        )
    Console().print(table)
    return 1 if problems else 0


if __name__ == "__main__":
    count, *names = sys.argv[1:] or ["50"]
    sys.exit(main(int(count), names or list(KINDS)))
