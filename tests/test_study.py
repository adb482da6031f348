"""Studies: what they plan, that each run is done once, and what they tell."""

import json
import shlex
import shutil

import numpy as np
import pytest
from etils import epath
from PIL import Image

from jepa_jax import cli
from jepa_jax.config import changed
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.exits import FINISHED, STOPPED
from jepa_jax.study import run as study_run
from jepa_jax.study.plan import open_study, plan, recorded
from jepa_jax.study.record import curve, read
from jepa_jax.study.run import run_study, share
from jepa_jax.study.summary import Found, collect, summarize, table
from jepa_jax.training.changes import differing
from tests.commands import ROOT, launch, refused
from tests.snippets import blocks
from tests.tiny import tiny

STUDY = str(ROOT / "configs/studies/small_images.py")
FACTORS = {
    "learning rate": {"3e-4": {"optim.learning_rate": 3e-4}, "3": {"optim.learning_rate": 3.0}},
    "context": {"K = 2": {"masks.num_context": 2}},
}


def recipe():
    c = tiny()
    c.train.epochs = 4 / 22
    c.train.warmup_epochs = 0.0
    c.probe.train_images = c.probe.test_images = 100
    c.probe.compare = False
    return c


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of two runs, one of which diverges."""
    out = tmp_path_factory.mktemp("study")
    runs = plan(recipe(), FACTORS, only=["centre", "context"])
    config = runs[1].config
    config.optim.learning_rate, config.guard.roll_backs, config.guard.in_a_row = 1e30, 0, 1
    assert run_study(runs, epath.Path(out), epath.Path(out / "results")) == FINISHED
    return runs, epath.Path(out)


def test_the_plan_is_the_centre_and_one_change_at_a_time():
    runs = plan(recipe(), FACTORS, seeds=(0, 3))
    assert [run.name for run in runs[:4]] == [
        "centre.0",
        "learning_rate_3e_4.0",
        "learning_rate_3.0",
        "context_K_2.0",
    ]
    assert [run.seed for run in runs] == [0] * 4 + [3] * 4
    assert runs[3].config.masks.num_context == 2
    assert runs[0].config.masks.num_context is None
    assert runs[7].config.seed == 3


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["context"], ["context_K_2.0"]),
        (["centre", "3"], ["centre.0", "learning_rate_3.0"]),
        (["context: K = 2"], ["context_K_2.0"]),
    ],
)
def test_some_of_them(only, names):
    assert [run.name for run in plan(recipe(), FACTORS, only=only)] == names


@pytest.mark.parametrize(
    ("factors", "only", "message"),
    [
        ({"a": {"b": {"optim.lerning_rate": 1.0}}}, (), "a: b: config has no key"),
        ({"a": {"b": {"loss": "l3"}}}, (), "a: b: loss='l3' is none of"),
        ({"a": {"b": {"train.batch_size": "8"}}}, (), "a: b: train.batch_size"),
        ({"a": {"b": {}}, "a+": {"b": {}}}, (), "would both lie in 'a"),
        ({"a": {"b, c": {}}}, (), "commas"),
        (FACTORS, ["contxt"], "no 'contxt'; did you mean 'context'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(factors, only, message):
    with pytest.raises(UserError, match=message):
        plan(recipe(), factors, only=only)


def test_a_study_without_held_out_images_is_told_before_anything_runs():
    with pytest.raises(UserError, match=r"compares by probes: name .* data\.test_split"):
        plan(changed(recipe(), {"data.test_split": ""}), FACTORS)


def test_the_study_of_the_page_has_images_for_its_batches(monkeypatch):
    monkeypatch.chdir(ROOT)
    [page] = (b.text for b in blocks(ROOT / "docs/studies.md") if "def get_factors" in b.text)
    exec(page, names := {})
    config = names["get_config"]()
    images = len(open_source(config.data, config.data.train_split))
    runs = plan(config, names["get_factors"](config))
    assert max(run.config.train.batch_size for run in runs) <= images


def test_what_is_recorded_is_found_whichever_command_trained_it():
    names = ["context_K_2.1", "learning_rate_3.0", "README", "learning_rate_3.2", "renamed.0"]
    found = recorded(recipe(), FACTORS, names)
    assert [run.name for run in found] == [
        "learning_rate_3.0",
        "learning_rate_3.2",
        "context_K_2.1",
    ]
    assert recorded(recipe(), FACTORS, []) == []


def test_a_page_keeps_what_other_commands_trained(tmp_path):
    folder = shutil.copytree(ROOT / "docs/results/cifar10_cpu", tmp_path / "results")
    before = (folder / "README.md").read_text()
    command = shlex.split(before.split("```")[1])[3:]
    words = list(cli.without(command, "out", "results", "seeds"))
    seeds = [word for word in command if word.startswith("--seeds")]
    here = (f"--out={tmp_path}", f"--results={folder}")
    asked = *words, "--only", "masks", "--seeds=3", "--summary", *here
    assert launch("study", *asked).returncode == 0
    after = (folder / "README.md").read_text()
    assert shlex.split(after.split("```")[1])[3:] == [*words, *here, *seeds]
    assert after.split("```")[2] == before.split("```")[2]

    record = json.loads((folder / "masks_block.0.json").read_text())
    record["config"]["seed"] = record["seed"] = 3
    for file in folder.glob("*.json"):
        file.unlink()
    (folder / "masks_block.3.json").write_text(json.dumps(record))
    assert launch("study", *asked).returncode == 0
    told = shlex.split((folder / "README.md").read_text().split("```")[1])[3:]
    assert told == [*words, *here, "--seeds=3", "--only=masks"]


def test_a_home_is_found(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "centre.0.json").touch()
    words = "--config=configs/studies/small_images.py", "--only=centre", "--summary"
    told = launch("study", *words, "--out=~", HOME=str(tmp_path)).stderr
    assert f"{tmp_path}/results/centre.0.json is no record of a study" in told


def test_parts_make_the_whole():
    runs = plan(recipe(), FACTORS, seeds=(0, 1))
    parts = [share(runs, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(UserError, match="--part"):
            share(runs, wrong)


def test_a_record_has_setting_curve_accuracy_and_cost(done):
    _, out = done
    record = json.loads((out / "results" / "centre.0.json").read_text())
    assert record["config"]["model.width"] == 16
    assert "optim.b1" not in record["config"]
    assert 0.05 < record["accuracy"]["trained target encoder"]["knn"] <= 1
    assert record["curve"][-1]["step"] == 4
    assert record["curve"][-1]["loss"] > 0
    assert record["seconds"] >= 0
    assert "cores" in record["hardware"]


def test_a_run_that_diverges_is_told_and_ends_nothing(done):
    runs, out = done
    record = json.loads((out / "results" / "context_K_2.0.json").read_text())
    assert "loss nan" in record["failed"]
    assert "1 failed" in table(collect(runs, out / "results"))


def test_what_is_done_is_not_done_again(done, monkeypatch, capsys):
    runs, out = done
    monkeypatch.setattr(study_run, "train", lambda *_: pytest.fail("trained again"))
    assert run_study(runs, out, out / "results") == FINISHED
    assert capsys.readouterr().out.count("done before") == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train.epochs": 4.0}, r"train.epochs: 0.18\d* -> 4.0"),
        ({"optim.b1": 0.5}, "optim.b1: 0.9 -> 0.5"),  # of a key that had its default
        ({"probe.test_images": 200}, "probe.test_images: 100 -> 200"),
        ({"data.path": "elsewhere"}, r"data.path: data/imagenet/.* -> elsewhere"),
        ({"data.name": "other"}, "data.name: None -> other"),
        ({"data.label_key": "coarse_label"}, "data.label_key: None -> coarse_label"),
    ],
)
def test_a_record_of_another_setting_is_not_passed_off(done, change, told):
    _, out = done
    runs = plan(changed(recipe(), change), FACTORS, only=["centre"])
    for use in (
        lambda: run_study(runs, out, out / "results"),
        lambda: collect(runs, out / "results"),
    ):
        with pytest.raises(UserError, match=rf"centre.0.json is of another setting \({told}\)"):
            use()


def test_what_a_run_that_goes_on_may_change_leaves_its_record(done):
    _, out = done
    free = {"data.threads": 3, "train.checkpoint_every": 7, "mesh.fsdp": 1}
    runs = plan(changed(recipe(), free), FACTORS, only=["centre"])
    assert len(collect(runs, out / "results")) == 1


@pytest.mark.parametrize(
    ("folder", "changes"),
    [
        ("fashion_mnist", {}),
        ("cifar10", {"data.source": "npz", "data.path": "data/cifar10_{split}.npz"}),
    ],
)
def test_records_that_are_kept_are_of_our_study(folder, changes):
    study = open_study(STUDY)
    config = changed(study.get_config(folder), changes)
    [centre] = plan(config, study.get_factors(config), only=["centre"])
    assert read(epath.Path(ROOT / "docs/results" / folder / "centre.0.json"), centre)["seconds"]


def test_a_signal_stops_the_study_and_leaves_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "train", lambda *_: STOPPED)
    runs = plan(recipe(), FACTORS)
    assert run_study(runs, epath.Path(tmp_path), epath.Path(tmp_path / "results")) == STOPPED
    assert not (tmp_path / "results").exists()


def test_the_page_compares_with_the_centre(done, tmp_path):
    runs, out = done
    folder = epath.Path(shutil.copytree(out / "results", tmp_path / "results"))
    record = json.loads((folder / "centre.0.json").read_text())
    for name, knn in (("centre.0", 0.5), ("context_K_2.0", 0.625)):
        accuracy = {"trained target encoder": {"knn": knn, "linear": 0.75}}
        curve = [{"step": step, "knn": knn, "linear": 0.5} for step in (1, 2, 3)]
        config = json.loads((folder / f"{name}.json").read_text())["config"]
        own = {"config": config, "curve": curve, "factor": "" if name == "centre.0" else "context"}
        (folder / f"{name}.json").write_text(json.dumps(record | own | {"accuracy": accuracy}))
    page = summarize("Digits", "python launch/study.py", runs, folder)
    text = page.read_text()
    assert "| context | K = 2 | 62.5 | +12.5 | 75.0 | +0.0 | 1 |" in text
    for picture in ("results.png", "curves.png"):
        with Image.open(folder / picture) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_a_variant_of_that_name_is_not_the_centre():
    record = {"accuracy": {"trained target encoder": {"knn": 0.5, "linear": 0.75}}, "seconds": 1.0}
    found = [Found("crop", variant, [record], 0) for variant in ("centre", "corner")]
    assert "|  | corner | 50.0 |  | 75.0 |  | 1 |" in table(found)


def test_curves_are_thinned_and_keep_the_probes():
    rows = [{"step": i, "loss": 1 / 3, "x": 0} for i in range(1, 401)]
    rows[6] |= {"knn": 0.5, "linear": 0.25}
    thin = curve(rows)
    assert len(thin) == 41
    assert thin[-1] == {"step": 400, "loss": 0.3333}
    assert {"step": 7, "loss": 0.3333, "knn": 0.5, "linear": 0.25} in thin


def test_only_what_is_not_the_default_is_kept():
    assert "data.image_size" in differing(tiny())
    assert "optim.b1" not in differing(tiny())


def test_a_recipe_is_no_study():
    assert "no study" in refused("study", "--config=configs/digits.py", "--out=runs/none")


def test_what_is_wrong_with_a_folder_is_no_result(done, tmp_path):
    _, out = done
    shutil.copytree(out / "centre.0", tmp_path / "centre.0")
    (changed,) = plan(recipe(), FACTORS, only=["centre"])
    changed.config.optim.learning_rate = 0.5
    records = epath.Path(tmp_path / "results")
    with pytest.raises(UserError, match="another config"):
        run_study([changed], epath.Path(tmp_path), records)
    assert not records.exists()


@pytest.mark.parametrize("which", sorted(open_study(STUDY).DATA))
def test_our_study_can_be_run_on_each_of_its_data_sets(which):
    study = open_study(STUDY)
    config = study.get_config(which)
    runs = plan(config, study.get_factors(config), only=["centre", "context", "targets: larger"])
    assert len(runs) == 6
