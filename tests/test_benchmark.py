"""The benchmarks run and count; what they find is not tested."""

import collections
import importlib.util
import json
import os
import re
import signal
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jepa_jax.benchmark import attention, checkpoint, heads, masks, scaling, step, step_report
from jepa_jax.benchmark.contender import Contender, Unfinished, start_all, take_turns
from jepa_jax.benchmark.data import compare, report
from jepa_jax.benchmark.peaks import sheet_peak
from jepa_jax.config import changed, defaults
from jepa_jax.errors import UserError
from tests.commands import ROOT, launch
from tests.tiny import tiny


@pytest.fixture
def config():
    c = defaults()
    c.data.source = "digits"
    c.data.test_split = "test"
    c.data.channels = 1
    c.data.image_size = (32, 32)
    return c


SHORT = {"images": 8, "workers": 1, "seconds": 0.5, "rounds": 1}


def test_our_input_is_measured(config, tmp_path, capsys):
    rows = compare(config, tmp_path, peer=False, **SHORT)
    assert [row["contender"] for row in rows] == ["jepa_jax", "jepa_jax fast"]
    assert all(row["images_per_second"] > 0 and row["worker_mb"] > 10 for row in rows)
    report(rows, workers=1)
    assert "jepa_jax fast" in capsys.readouterr().out


def test_a_folder_for_what_is_found_is_made(tmp_path):
    command = "masks", "--config=configs/digits.py", "--rounds=1", "--seconds=0.1"
    result = launch("benchmark", *command, "--out=~/new/found.jsonl", HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    line = (tmp_path / "new" / "found.jsonl").read_text()
    assert result.stdout.startswith(line)
    assert len(json.loads(line)["batch_seconds"]) == 1


@pytest.mark.parametrize("flag", ["--out=/dev/null/found.jsonl", "--folder=/dev/null"])
def test_a_place_that_nothing_can_be_written_to_is_told_before_the_work(flag):
    result = launch("benchmark", "checkpoint", "--config=configs/digits.py", flag)
    assert result.returncode == 74
    (line,) = result.stderr.splitlines()
    assert re.match(r"error: /dev/null.* cannot be written", line)


needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")


@needs_torch
def test_the_peer_takes_turns_with_ours(config, tmp_path):
    rows = compare(config, tmp_path, peer=True, **SHORT)
    assert [row["contender"] for row in rows] == [
        "jepa_jax",
        "jepa_jax fast",
        "torch",
        "torch uint8",
    ]


def test_a_missing_peer_is_told_in_a_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_jax.benchmark.data.PEER", tmp_path / "nowhere.py")
    with pytest.raises(UserError, match=r"torch failed: .*nowhere\.py"):
        compare(config, tmp_path, peer=True, **SHORT)


def test_a_contender_that_ends_without_a_word_is_told_too(config, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_jax.benchmark.data.sys.executable", "false")
    with pytest.raises(UserError, match="jepa_jax failed: exit code 1"):
        compare(config, tmp_path, peer=False, **SHORT)


def test_checkpoints_are_measured(tmp_path, capsys):
    rows = checkpoint.measure(tiny(), tmp_path, steps=2, every=2, rounds=2)
    counts = collections.Counter(row["what"] for row in rows if row["seconds"] > 0)
    assert counts == {
        "a step": 2,
        "a save": 2,
        "a step with checkpoints, events and watchdog": 2,
        "the first restore": 1,
        "the first verification": 1,
        "a restore": 2,
        "verification": 2,
    }
    checkpoint.report(rows)
    assert "a save" in capsys.readouterr().out


def test_the_last_save_is_part_of_a_round(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(checkpoint._Run, "__init__", lambda *_: None)
    monkeypatch.setattr(checkpoint._Run, "steps", lambda *_, **__: waited.append("steps"))
    run = checkpoint._Run()
    run._folder, run.training = tmp_path, SimpleNamespace(config=tiny())
    run.checkpoints = SimpleNamespace(wait=lambda: waited.append("saved"))
    run.careful_steps(2, 2)
    assert waited == ["steps", "saved"]


def test_rounds_without_a_save_tell_nothing(tmp_path):
    with pytest.raises(UserError, match="--steps=2 end before the first save: take --every=2"):
        checkpoint.measure(tiny(), tmp_path, steps=2, every=3, rounds=1)


def test_heads_are_measured(capsys):
    heads.main("4", "3", "8", "1")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[-1] for row in rows][:1] == ["1.00"]
    assert min(float(row[-5]) for row in rows) > 0


def test_a_step_is_measured_beside_the_same_work_in_torch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step, "STYLES", ("plain",) if importlib.util.find_spec("torch") else ())
    rows = step.compare(tiny(), tmp_path, steps=2, rounds=2, peer=True)
    assert [len(row["rounds"]) for row in rows] == [2] * len(rows)
    assert rows[0]["context"] == [64, 4]
    assert 0 <= rows[0]["input"]["input_wait"] <= 1
    step_report.report(rows)
    step_report.report_change(rows, rows)
    told = capsys.readouterr().out
    assert "images/s" in told
    assert "1.000×" in told


ROW = {
    "contender": "jepa_jax",
    "device": "TPU v4",
    "devices": 4,
    "dtype": "bfloat16",
    "parameters": 7,
    "images": [32, 8, 8, 3],
    "context": [32, 4],
    "targets": [32, 4, 4],
    "flops": 55e12,
    "sheet_peak": 275e12,
    "rounds": [
        {"step_seconds": seconds, "host_seconds": 0.01, "peak_bytes": 9, "measured_peak": 1e14}
        for seconds in (0.1, 0.2, 0.9)
    ],
}


def test_a_peer_on_another_device_is_no_comparison():
    peer = ROW | {"contender": "torch plain", "device": "cpu"}
    with pytest.raises(UserError, match="torch plain has device cpu, ours TPU v4"):
        step.check_same(ROW, peer)


def test_what_follows_from_a_step():
    found = step_report.summary(ROW)
    assert found["images_per_second"] == pytest.approx(160)
    assert found["mfu"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("TPU v5e", 197e12),
        ("TPU v5p", 459e12),
        ("abacus", None),
    ],
)
def test_a_data_sheet_is_found_by_the_longest_name(kind: str, peak: float | None):
    assert sheet_peak(kind) == peak


@pytest.mark.parametrize(("device", "cell"), [("TPU v4", "10.00"), ("cpu", "–")])
def test_a_step_that_is_made_where_it_is_asked_for_has_no_host_time(device: str, cell: str, capsys):
    about = {"contender": "ours", "compile_seconds": 1.0, "start_seconds": 2.0, "input": {}}
    step_report.report([ROW | about | {"device": device}])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "host's share" in line]
    assert line.split("│")[2].strip() == cell


@pytest.mark.parametrize(("key", "value"), [("targets", [32, 4, 5]), ("flops", 56e12)])
def test_other_work_is_not_compared(key, value):
    with pytest.raises(UserError, match=f"another {key}"):
        step.check_unchanged([ROW], [ROW | {key: value}])


def test_other_work_is_refused_before_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "start_all", lambda _: {step.OURS: ROW | {"flops": 56e12}})
    monkeypatch.setattr(step, "take_turns", None)
    with pytest.raises(UserError, match="another flops"):
        step.compare(tiny(), tmp_path, steps=1, rounds=1, peer=False, before=[ROW])


def test_a_peer_beside_several_devices_is_refused_before_it_starts(tmp_path, monkeypatch):
    peer = SimpleNamespace(name="torch", start=None, stop=lambda: None)
    ours = SimpleNamespace(name=step.OURS, start=ROW.copy, stop=lambda: None)
    monkeypatch.setattr(step, "our_contender", lambda *_: ours)
    monkeypatch.setattr(step, "peer_contender", lambda *_: peer)
    with pytest.raises(UserError, match=r"ours on 4: .*CUDA_VISIBLE_DEVICES=0"):
        step.compare(tiny(), tmp_path, steps=1, rounds=1, peer=True)


def test_coarser_numbers_are_told(capsys):
    row = ROW | {"contender": "ours", "compile_seconds": 1.0, "start_seconds": 2.0}
    step_report.report_change([row], [row | {"coarser": {"model.residual": "bfloat16"}}])
    told = " ".join(capsys.readouterr().out.split())
    assert "precision now: {'model.residual': 'bfloat16'}; before: the usual" in told


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("targets", "pixels"),
        ("predictor.one_pass", True),
        ("train.draws", 2),
        ("regularizer.variance", 0.1),
        ("regularizer.covariance", 0.1),
        ("model.residual", "bfloat16"),
        ("model.target_dtype", "float8_e4m3fn"),
    ],
)
def test_what_the_peer_does_not_do_is_not_compared(tmp_path, key, value):
    with pytest.raises(UserError, match=f"--peer=torch does no other work than {key}="):
        step.peer_contender("plain", changed(tiny(), {key: value}), tmp_path)


def test_no_program_of_the_peer_outlives_the_benchmark(tmp_path):
    environment = step.peer_contender("best", tiny(), tmp_path)._environment
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert environment[name].startswith(str(tmp_path))


# A contender that goes through so many rounds.
SPEAKS = """
import json, sys
print(json.dumps({"device": "cpu"}), flush=True)
for _, line in zip(range(int(sys.argv[1])), sys.stdin):
    print(json.dumps({"step_seconds": 1.0}), flush=True)
sys.exit("it broke")
"""


def speaking(name: str, rounds: int) -> Contender:
    return Contender(name, [sys.executable, "-c", SPEAKS, str(rounds)])


def test_rounds_before_a_failure_are_kept():
    contenders = [speaking("one", 9), speaking("other", 2)]
    rows = start_all(contenders)
    with pytest.raises(Unfinished, match="other failed: it broke") as caught:
        take_turns(contenders, rows, steps=1, rounds=3)
    contenders[0].stop()
    assert [len(row["rounds"]) for row in caught.value.rows] == [2, 1]


def test_one_that_is_killed_while_it_waits_is_told():
    waiting = speaking("it", 9)
    waiting.start()
    os.kill(waiting._process.pid, signal.SIGKILL)
    waiting._process.wait()
    with pytest.raises(UserError, match="it failed: killed, as the kernel does"):
        waiting.ask("steps", 1)


def test_images_that_cannot_be_read_cost_no_rounds(tmp_path, monkeypatch, capsys):
    about = ROW | {"device": "cpu", "compile_seconds": 1.0, "start_seconds": 2.0, "rounds": []}
    said = iter(ROW["rounds"])

    def ask(what, _):
        if what == "input":
            raise UserError("2 of 100 images cannot be read")
        return next(said)

    ours = SimpleNamespace(name=step.OURS, start=about.copy, ask=ask, stop=lambda: None)
    monkeypatch.setattr(step, "our_contender", lambda *_: ours)
    (row,) = step.compare(tiny(), tmp_path, steps=1, rounds=2, peer=False)
    assert len(row["rounds"]) == 2
    step_report.report([row])
    assert "2 of 100 images cannot be read" in " ".join(capsys.readouterr().out.split())


def test_what_was_measured_before_a_failure_is_written(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    out, path = tmp_path / "out.jsonl", f"{tmp_path}{os.pathsep}{ROOT}"
    command = "data", "--config=configs/digits.py", "--images=8", "--seconds=0.1", "--peer=torch"
    result = launch("benchmark", *command, f"--out={out}", PYTHONPATH=path)
    assert result.returncode == 2
    assert "error: torch failed: ImportError: no torch" in result.stderr
    first, *_ = out.read_text().splitlines()
    assert json.loads(first)["contender"] == "jepa_jax"


def test_sizes_that_do_not_fit_are_left_out(tmp_path, monkeypatch, capsys):
    too_large = [sys.executable, "-c", "import sys; sys.exit('out of memory')"]

    def ours(name, *_):
        return Contender(name, too_large) if name == "depth_4" else speaking(name, 2)

    monkeypatch.setattr(scaling, "our_contender", ours)
    rows = scaling.measure(tiny(), tmp_path, over="depth", steps=1, rounds=1)
    assert [(row["size"], len(row["rounds"])) for row in rows] == [(1, 1), (2, 1)]
    scaling.report([ROW | row for row in rows])
    assert "for larger ones memory is too small" in capsys.readouterr().out


def test_what_is_no_earlier_run(tmp_path):
    (tmp_path / "rows").write_text("{}\n")
    with pytest.raises(UserError, match="give what --out wrote"):
        step_report.read(str(tmp_path / "rows"))


def test_a_step_on_more_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "FACTORS", (2,))
    (row,) = scaling.measure(tiny(), tmp_path, over="devices", steps=1, rounds=1)
    assert (row["size"], row["devices"], row["images"][0]) == (2, 2, 128)


def test_growth_is_told_beside_that_of_the_flops(capsys):
    rows = [
        ROW | {"over": "batch", "size": size, "flops": 55e12 * size**2, "rounds": ROW["rounds"]}
        for size in (1, 2, 4)
    ]
    scaling.report(rows)
    assert "time ∝ batch^0.00; by its FLOPs it would be 2.00" in capsys.readouterr().out


def test_a_power_law_is_found():
    sizes = [1, 2, 4, 8]
    assert scaling.exponent(sizes, 3 * np.sqrt(sizes)) == pytest.approx(0.5)


def test_attention_is_measured(capsys):
    shape = attention.shape_of(tiny())
    assert shape == (64, 16, 2, 16)
    rows = attention.measure(shape, "float32", rounds=2)
    assert [len(row["backward"]) for row in rows] == [2, 2]
    attention.report(rows)
    assert "jax.nn xla" in capsys.readouterr().out


@pytest.mark.parametrize(("dtype", "has"), [("bfloat16", True), ("float32", False)])
def test_cudnn_is_measured_where_it_has_a_kernel(dtype: str, has: bool, monkeypatch):
    gpu = SimpleNamespace(compute_capability="9.0")
    monkeypatch.setattr("jax.local_devices", lambda: [gpu])
    found = attention.implementations(jax.ShapeDtypeStruct((8, 12, 196, 64), dtype))
    assert ("jax.nn cudnn" in found) is has


def test_a_shape_without_heads():
    with pytest.raises(UserError, match="multiple of H"):
        attention.shape_of(tiny(), ["8", "16", "3", "16"])


def test_masks_are_measured(capsys):
    step = {"chip": "NVIDIA H100", "chips": 8, "mfu": 0.5}
    rows = masks.measure(tiny(), rounds=2, seconds=0.05, **step)
    assert rows[0]["images_per_second"] > 0
    masks.report(rows)
    assert "4×4" in capsys.readouterr().out


def test_an_unknown_chip():
    with pytest.raises(UserError, match="--chip=abacus is none of"):
        masks.measure(tiny(), rounds=1, seconds=0.1, chip="abacus", chips=1, mfu=0.5)
