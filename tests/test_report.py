"""The report: what is in it, that nothing is fetched, and that a browser shows it."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.errors import StorageError, UserError
from jepa_jax.training.workdir import Workdir
from jepa_jax.visualize.report.charts import chart
from jepa_jax.visualize.report.page import page, write_report
from jepa_jax.visualize.report.record import differences, read_records
from jepa_jax.visualize.report.sections import settings

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
SIGNS = {"over_mean": 0.6, "feature_std": 0.4, "rank": 20.0}


def write(folder, rate: float = 1e-3, finished: bool = True) -> str:
    """What a run of 200 steps leaves, but for checkpoints."""
    config = defaults().unlock()
    config.optim.learning_rate = rate
    run = Workdir(folder)
    run.claim(config, [], [])
    run.record("start", processes=1, seconds={"start": 2.0})
    run.record("restore", step=0, seconds={"start": 1.0})
    run.record("compile", seconds={"compile": 5.0})
    for step in range(10, 201, 10):
        row = {"step": step, "loss": 1 / step, "learning_rate": rate, "images_per_second": 100.0}
        run.append(row | SIGNS if step % 50 == 0 else row)
        run.record("step", step=step, seconds={"step": 3.0})
    if finished:
        run.finish({"step": 200, "accuracy": {"trained target encoder": {"knn": 0.731}}})
    Image.new("RGB", (40, 30), "red").save(folder / "masks.png")
    return str(folder)


@pytest.fixture
def runs(tmp_path) -> list[str]:
    return [write(tmp_path / "slow"), write(tmp_path / "fast", rate=2e-3, finished=False)]


def test_all_that_is_known_of_a_run_is_in_it(runs):
    text = page(read_records(runs[:1]))
    for part in (
        ">finished<",
        "73.1%",
        "It found nothing wrong.",
        'aria-label="loss over steps"',
        "data:image/webp;base64,",
        "optim.learning_rate",
        "compilation, with the first step",
    ):
        assert part in text
    assert "The doctor looked 4 times." in text


def test_settings_that_differ_between_runs_are_marked(runs):
    text = page(read_records(runs))
    marked = [line for line in text.splitlines() if 'class="differs"' in line]
    assert {line.split('scope="row">')[1].split("<")[0] for line in marked} == {
        "optim.learning_rate"
    }
    assert "last event: step" in text  # the other is under way


def test_differences_are_of_keys_that_some_lack_too():
    assert differences([{"a": 1, "b": 2}, {"a": 1}]) == ["b"]


def test_equal_numbers_are_no_difference():
    assert differences([{"scale": [0.3, 1]}, {"scale": [0.3, 1.0]}]) == []


def test_settings_that_one_of_the_runs_lacks(runs):
    """An older version's, which the defaults stand for, and one that only another version has."""
    files = [pathlib.Path(run) / "config.json" for run in runs]
    old, new = (json.loads(file.read_text()) for file in files)
    del old["train"]["draws"]
    new["train"]["drafts"] = 7
    for file, config in zip(files, (old, new), strict=True):
        file.write_text(json.dumps(config))
    lines = settings(read_records(runs)).splitlines()
    assert not any("train.draws" in line for line in lines if "differs" in line)
    assert sum("train.drafts" in line and "<td>–</td><td>7</td>" in line for line in lines) == 2


def test_an_exported_encoder_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "ijepa"}')
    with pytest.raises(UserError, match=r"no config\.json of a run: give its --workdir"):
        read_records([str(tmp_path)])


def test_verdicts_are_told_and_when_they_end(runs):
    run = Workdir(runs[0])
    told = {"step": 50, "name": "drift", "severity": "ill", "text": "it <runs> away"}
    run.record("verdict", **told, seconds={})
    run.record("verdict", **(told | {"severity": "over", "text": "", "step": 60}), seconds={})
    text = page(read_records(runs[:1]))
    assert '<div class="verdict ill"><strong>ill</strong> step 50, drift: it &lt;runs&gt;' in text
    assert "step 60, drift: no longer so" in text
    assert "nothing wrong" not in text


def test_cost_is_told_for_a_price_alone(runs, monkeypatch):
    (record,) = read_records(runs[:1])
    record.environment.update({"mesh.replica": 2, "mesh.fsdp": 1, "mesh.tensor": 1})
    assert record.device_hours == pytest.approx(2 * 68 / 3600, rel=0.01)
    assert "device hour<" not in page([record])
    assert "cost at 3600 EUR a device hour" in page([record], 3600, "EUR")
    assert "136.00 EUR" in page([record], 3600, "EUR")


@pytest.mark.parametrize("told", [True, False])
def test_device_hours_are_of_the_devices_that_each_start_had(tmp_path, told):
    (record,) = read_records([write(tmp_path / "run", finished=False)])
    changes = [("replica", 4, 1), ("fsdp", 4, 1)]
    starts = [{"devices": 16} if told else {}, {"devices": 1} if told else {}]
    hour, events = {"step": 3600.0}, []
    for number, start in enumerate(starts):
        at = 50_000.0 * number
        events += [
            {"event": "change", "name": f"mesh.{axis}", "old": old, "new": new}
            for axis, old, new in changes * number
        ]
        events += [{"time": at, "event": "start", "seconds": {"start": 3600.0}, **start}]
        events += [{"time": at + 3600.0, "event": "step", "step": number + 1, "seconds": hour}]
    record = dataclasses.replace(record, events=events)
    assert record.device_hours == (34.0 if told else None)  # no checkpoint tells of mesh.tensor
    # The newest checkpoint may be of the first start still.
    for replica in (1, 4):
        mesh = {"mesh.replica": replica, "mesh.fsdp": replica, "mesh.tensor": 1}
        assert dataclasses.replace(record, environment=mesh).device_hours == 34.0


def test_a_run_that_went_on_after_its_end_is_not_finished(runs):
    Workdir(runs[0]).append({"step": 210, "loss": 0.1})
    (record,) = read_records(runs[:1])
    assert record.results is None
    assert ">finished<" not in page([record])


def test_nothing_is_fetched(runs):
    text = page(read_records(runs))
    for outside in ('src="http', 'href="http', "@import", "url(http"):
        assert outside not in text


def test_a_picture_that_was_cut_short_does_not_end_the_report(runs):
    file = pathlib.Path(runs[0]) / "masks.png"
    file.write_bytes(file.read_bytes()[:60])
    assert "masks.png can&#x27;t be shown: " in page(read_records(runs))


def test_rows_that_cannot_be_read(runs):
    file = pathlib.Path(runs[0]) / "metrics.jsonl"
    file.unlink()
    file.mkdir()
    with pytest.raises(StorageError, match="slow cannot be read"):
        read_records(runs)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no config.json: give the --workdir"):
        read_records([str(tmp_path)])


def test_a_run_named_twice(runs):
    with pytest.raises(UserError, match="named twice"):
        read_records([runs[0], runs[0] + "/"])


def test_names_tell_runs_apart(tmp_path):
    paths = [write(tmp_path / "a" / "run"), write(tmp_path / "b" / "run")]
    assert [record.name for record in read_records(paths)] == ["a/run", "b/run"]


def browse(file, width: int, folder) -> tuple[str, list[str]]:
    """The page as the browser has it, and what its console says."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--window-size={width},900", f"--user-data-dir={folder}", "--dump-dom"]
    result = subprocess.run(
        [*command, f"file://{file}"], capture_output=True, text=True, timeout=120, check=True
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_it_without_complaint(runs, tmp_path):
    out = tmp_path / "report.html"
    write_report(runs, out)
    for width in (1280, 390):
        shown, complaints = browse(out, width, tmp_path / "profile")
        assert complaints == []
        assert 'id="overview"' in shown
    # What is fetched from outside would be told: so the console is heard.
    out.write_text(out.read_text().replace("<nav>", '<img src="http://localhost/x.png"><nav>'))
    assert any("Content Security Policy" in line for line in browse(out, 390, tmp_path / "p")[1])


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_it_fits_a_phone(runs, tmp_path):
    """No part of the page is wider than the screen; wide tables scroll by themselves."""
    out = tmp_path / "report.html"
    write_report(runs, out)
    measure = "document.title = document.documentElement.scrollWidth + ' of ' + innerWidth"
    text = out.read_text().replace(
        "default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'"
    )
    out.write_text(text.replace("</body>", f"<script>{measure}</script></body>"))
    shown, _ = browse(out, 390, tmp_path / "profile")
    wide, _, screen = shown.split("<title>")[1].split("<")[0].split()
    assert int(wide) <= int(screen)


def test_a_constant_is_drawn_flat():
    flat = chart("decay", {0: [(step, 0.04 + 1e-9 * (step % 2)) for step in range(20)]})
    steep = chart("decay", {0: [(step, 0.04 + 1e-2 * (step % 2)) for step in range(20)]})
    assert _height(flat) < 1 < _height(steep)


def _height(svg: str) -> float:
    """Of the curve, which has the most points."""
    path = max(re.findall(r'<path d="([^"]*)" clip-path', svg), key=len)
    heights = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
    return max(heights) - min(heights)
