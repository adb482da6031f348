"""The search for the best batch on a GPU, with one that is made up."""

import collections
import json
import re
import sys
from types import SimpleNamespace

import pytest

from jepa_jax.benchmark import gpu, gpu_report
from jepa_jax.benchmark.contender import Contender, OutOfMemory
from jepa_jax.benchmark.gpu import best_batch
from jepa_jax.config import changed
from jepa_jax.errors import UserError
from tests.tiny import tiny


def made_up(memory: int, slow_from: int = 1000):
    """A GPU for so many images, on which a step takes 100 seconds and one for each image."""
    tried = []

    def attempt(side: str, batch: int) -> dict:
        tried.append(batch)
        if batch > memory:
            return {"batch": batch, "out_of_memory": True}
        seconds = (100 + batch) * (2 if batch >= slow_from else 1)
        return {"batch": batch, "rounds": [{"step_seconds": seconds}]}

    return attempt, tried


@pytest.mark.parametrize(
    ("memory", "slow_from", "best", "tried"),
    [
        (100, 1000, 64, [16, 32, 64, 128]),
        (10_000, 1000, 512, [16, 32, 64, 128, 256, 512]),
        (100, 64, 32, [16, 32, 64]),
        (10_000, 256, 128, [16, 32, 64, 128, 256]),
        (1, 1000, None, [16]),
    ],
)
def test_the_batch_doubles_until_memory_ends_or_nothing_is_gained(memory, slow_from, best, tried):
    attempt, asked = made_up(memory, slow_from)
    found = best_batch(attempt, "ours", smallest=16, largest=512)
    assert (found and found["batch"]) == best
    assert asked == tried


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes", True),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", True),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", True),
        ("ValueError: no such thing", False),
    ],
)
def test_memory_is_told_from_other_failures(line: str, kind: bool):
    contender = Contender("it", [sys.executable, "-c", f"import sys; sys.exit({line!r})"])
    with pytest.raises(UserError) as caught:
        contender.start()
    assert isinstance(caught.value, OutOfMemory) is kind


def test_one_that_the_kernel_kills_ran_out_of_memory():
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(OutOfMemory, match="it failed: killed, as the kernel does"):
        Contender("it", [sys.executable, "-c", killed]).start()


# What a contender says and does, of a GPU on which so many images are too many.
SPEAKS = """
import json, sys
batch, most = map(int, sys.argv[1:])
if batch > most:
    sys.exit("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
about = {"device": "made up", "dtype": "bfloat16", "devices": 1, "parameters": 7}
about |= {"flops": batch * 1e12, "sheet_peak": 1e12, "compile_seconds": 1.0}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    found = {"step_seconds": batch + 1.0, "peak_bytes": batch, "measured_peak": 8e11}
    print(json.dumps(found), flush=True)
"""
SIZES = {"smallest": 2, "largest": 16, "steps": 1, "rounds": 2, "peer": True}


@pytest.fixture(scope="module")
def sides():
    """A GPU on which 8 images are not too many for one of our sides, and 4 for all others."""

    def side(name: str, batch: int, most: int) -> Contender:
        return Contender(name, [sys.executable, "-c", SPEAKS, str(batch), str(most)])

    def ours(name, config, *_, **__):
        return side(name, config.train.batch_size, 8 if "dots" in name else 4)

    def theirs(style, config, *_):
        return side(f"torch {style}", config.train.batch_size, 4)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "our_contender", ours)
        patch.setattr(gpu, "peer_contender", theirs)
        yield


@pytest.fixture(scope="module")
def found(sides, tmp_path_factory):
    """All of it."""
    out = tmp_path_factory.mktemp("gpu") / "out.jsonl"
    return gpu.measure("tiny", tiny(), out.parent, out, **SIZES), out


def test_each_side_is_tried_and_takes_turns_at_its_best(found):
    rows, out = found
    trials = collections.defaultdict(list)
    for row in rows:
        if row["what"] == "trial":
            trials[row["contender"]].append(row["batch"])
    assert trials == {
        "jepa_jax, remat=none": [2, 4, 8],
        "jepa_jax, remat=dots": [2, 4, 8, 16],
        "torch plain": [2, 4, 8],
        "torch best": [2, 4, 8],
    }
    best = [row for row in rows if row["what"] == "best"]
    assert [(row["contender"], row["batch"], len(row["rounds"])) for row in best] == [
        ("jepa_jax, remat=dots", 8, 2),
        ("torch plain", 4, 2),
        ("torch best", 4, 2),
    ]
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows


def test_it_goes_on_after_what_is_there(found, tmp_path):
    rows, _ = found
    # As if killed while it wrote of the first trial of "torch best".
    at = next(i for i, row in enumerate(rows) if row["contender"] == "torch best")
    lines = [json.dumps(row) + "\n" for row in rows]
    out = tmp_path / "out.jsonl"
    out.write_text("".join(lines[:at]) + lines[at][:40])
    again = gpu.measure("tiny", tiny(), tmp_path, out, **SIZES)
    assert again[:at] == rows[:at]
    what = [[row[key] for key in ("what", "contender", "batch")] for row in rows]
    assert [[row[key] for key in ("what", "contender", "batch")] for row in again] == what
    assert gpu.measure("tiny", tiny(), tmp_path, out, **SIZES) == again


def runs(monkeypatch, *, at: int, then) -> list[str]:
    """Has something else happen at a run; the names of those that ran."""
    ran, run = [], gpu._run

    def counted(contender, steps):
        ran.append(contender.name)
        return then() if len(ran) == at else run(contender, steps)

    monkeypatch.setattr(gpu, "_run", counted)
    return ran


ALONE = SIZES | {"peer": False}
TRIALS = 7  # of ours


def test_rounds_that_are_done_are_kept(sides, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    ran, out = runs(monkeypatch, at=TRIALS + 2, then=interrupt), tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        gpu.measure("tiny", tiny(), tmp_path, out, **ALONE)
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **ALONE)
    assert len(ran) == TRIALS + 2 + 1
    (best,) = gpu.best_of(rows, "tiny", tiny())
    assert len(best["rounds"]) == 2


def test_a_batch_that_fits_no_longer_is_chosen_anew(sides, tmp_path, monkeypatch):
    runs(monkeypatch, at=TRIALS + 2, then=lambda: {"out_of_memory": True})
    out = tmp_path / "out.jsonl"
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **ALONE)
    (best,) = gpu.best_of(rows, "tiny", tiny())
    assert (best["batch"], len(best["rounds"])) == (4, 2)
    assert gpu.measure("tiny", tiny(), tmp_path, out, **ALONE) == rows


def test_a_peer_that_fails_leaves_the_others_and_is_tried_again(
    sides, tmp_path, monkeypatch, capsys
):
    def failing(style, *_):
        return Contender(style, [sys.executable, "-c", "import sys; sys.exit('no [C] compiler')"])

    out, theirs = tmp_path / "out.jsonl", gpu.peer_contender
    monkeypatch.setattr(gpu, "peer_contender", failing)
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **SIZES)
    assert [row["contender"] for row in gpu.best_of(rows, "tiny", tiny())] == [
        "jepa_jax, remat=dots"
    ]
    gpu_report.report(rows, {"tiny": tiny()})
    told = " ".join(capsys.readouterr().out.split())
    assert "best failed: no [C] compiler, at a batch of 2; the same command tries it again" in told
    monkeypatch.setattr(gpu, "peer_contender", theirs)
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **SIZES)
    assert len(gpu.best_of(rows, "tiny", tiny())) == 3
    assert not gpu.failures(rows, "tiny", tiny())


def test_if_none_of_ours_runs_it_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_run", lambda *_: {"failed": "it failed: no GPU"})
    with pytest.raises(UserError, match="tiny: it failed: no GPU"):
        gpu.measure("tiny", tiny(), tmp_path, tmp_path / "out.jsonl", **ALONE)


def test_a_cpu_is_not_measured(tmp_path, monkeypatch):
    cpu = SimpleNamespace(start=lambda: {"device": "cpu"}, ask=None, stop=lambda: None)
    monkeypatch.setattr(gpu, "our_contender", lambda *_, **__: cpu)
    with pytest.raises(UserError, match=r"sees no GPU: JAX needs pip install -e '\.\[cuda\]'"):
        gpu.measure("tiny", tiny(), tmp_path, tmp_path / "out.jsonl", **ALONE)


@pytest.mark.parametrize(
    ("given", "used"), [(None, "0"), ("3", "3"), ("2,3", "2"), ("GPU-8932f937", "GPU-8932f937")]
)
def test_it_takes_the_gpu_that_it_is_given(given: str | None, used: str, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpu.one_gpu()["CUDA_VISIBLE_DEVICES"] == used


@pytest.mark.parametrize(
    ("more", "trials"), [({"rounds": 3}, 1), ({"steps": 2}, 2), ({"steps": 2, "rounds": 1}, 2)]
)
def test_less_than_is_asked_for_is_no_answer(sides, tmp_path, more, trials):
    out = tmp_path / "out.jsonl"
    asked = ALONE | more
    first = gpu.measure("tiny", tiny(), tmp_path, out, **ALONE)
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **asked)
    (best,) = gpu.best_of(rows, "tiny", tiny())
    assert (best["steps"], len(best["rounds"])) == (asked["steps"], asked["rounds"])
    assert len(rows) - 1 == trials * (len(first) - 1)
    assert gpu.measure("tiny", tiny(), tmp_path, out, **ALONE | {"rounds": 1}) == rows


def test_another_torch_is_measured_anew(sides, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    for version in ("1.0", "2.0"):
        installed = [SimpleNamespace(version=version)]
        monkeypatch.setattr(gpu.metadata, "distributions", lambda name, it=installed: it)
        rows = gpu.measure("tiny", tiny(), tmp_path, out, **SIZES)
    assert collections.Counter((row["what"], row.get("torch")) for row in rows) == {
        ("trial", None): 7,
        ("trial", "1.0"): 6,
        ("trial", "2.0"): 6,
        ("best", None): 1,
        ("best", "2.0"): 2,
    }


def test_a_peer_that_is_added_takes_turns_too(sides, tmp_path):
    out = tmp_path / "out.jsonl"
    alone, both = (
        gpu.measure("tiny", tiny(), tmp_path, out, **SIZES | {"peer": peer})
        for peer in (False, True)
    )
    count = [len(gpu.best_of(rows, "tiny", tiny())) for rows in (alone, both)]
    assert count == [1, 3]
    assert [row for row in alone if row["what"] == "trial"] == both[: len(alone) - 1]


def test_coarser_numbers_are_beside_ours_and_not_for_them(sides, tmp_path, capsys):
    out, recipes = tmp_path / "out.jsonl", {"tiny": tiny()}
    rows = gpu.measure("tiny", tiny(), tmp_path, out, **ALONE, coarser=True)
    best = gpu.best_of(rows, "tiny", tiny())
    assert [row["contender"] for row in best] == ["jepa_jax, remat=dots", gpu.COARSE]
    gpu_report.report(rows, recipes)
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"take [\d,]+ hours of one such device, [\d,]+ with coarser numbers", told)


def test_what_was_found_of_another_setting_is_not_told(found):
    rows, _ = found
    other = changed(tiny(), {"model.depth": 3})
    assert gpu.best_of(rows, "tiny", changed(tiny(), {"train.batch_size": 2}))
    assert not gpu.best_of(rows, "tiny", other)
    assert not gpu.best_of(rows, "other", tiny())


def test_another_device_is_another_file(found, monkeypatch):
    _, out = found
    monkeypatch.setattr(gpu, "_run", lambda *_: {"device": "abacus"})
    with pytest.raises(UserError, match=r"abacus.*take another --out"):
        gpu.measure("other", tiny(), out.parent, out, **SIZES)


def test_a_peer_on_another_device_leaves_ours(sides, tmp_path, monkeypatch):
    run = gpu._run
    cpu = {"device": "cpu"}
    monkeypatch.setattr(gpu, "_run", lambda each, n: cpu if "torch" in each.name else run(each, n))
    rows = gpu.measure("tiny", tiny(), tmp_path, tmp_path / "out.jsonl", **SIZES)
    assert len(gpu.best_of(rows, "tiny", tiny())) == 1
    plain, _ = gpu.failures(rows, "tiny", tiny())
    assert plain["failed"].startswith("torch plain sees no GPU")


def test_shares_of_the_peaks():
    ours = {
        "contender": "jepa_jax",
        "batch": 8,
        "flops": 8e12,
        "sheet_peak": 4e12,
        "dtype": "bfloat16",
        "device": "abacus",
        "what": "best",
        "recipe": "vith14",
        "compile_seconds": 1.0,
        "rounds": [{"step_seconds": 4.0, "measured_peak": 2.5e12, "peak_bytes": 1}] * 2,
    }
    other = ours | {"contender": "torch", "batch": 2}
    mine, theirs = gpu_report.summary([ours, other])
    assert (mine["images_per_second"], mine["of_sheet"], mine["of_ceiling"]) == (2, 0.5, 0.8)
    assert (theirs["of_sheet"], theirs["ahead"]) == (0.125, 4)


def test_it_is_told_with_the_hours_of_the_recipe(found, capsys):
    rows, _ = found
    gpu_report.report(rows, {"tiny": tiny()})
    told = capsys.readouterr().out
    assert "jepa_jax, remat=dots" in told
    assert "300 epochs of 1,281,167 images would take" in " ".join(told.split())


def test_a_recipe_is_told_before_the_next_is_measured(found, tmp_path, monkeypatch, capsys):
    def measure(recipe, *_):
        if recipe == "other":
            raise KeyboardInterrupt
        return found[0]

    monkeypatch.setattr(gpu_report, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        gpu_report.measure_each({"tiny": tiny(), "other": tiny()}, tmp_path, tmp_path / "out.jsonl")
    assert "jepa_jax, remat=dots" in capsys.readouterr().out
