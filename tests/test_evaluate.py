"""The whole evaluation of a tiny encoder on digits: results, going on, and wrong input."""

import dataclasses
import json
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from etils import epath
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

import jepa_jax
from jepa_jax import cli
from jepa_jax.data.sources import open_source
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import digest
from jepa_jax.evaluation.extractor import Extractor
from jepa_jax.evaluation.finetune_run import FINETUNE
from jepa_jax.evaluation.lowshot import LOWSHOT
from jepa_jax.evaluation.opening import How, first_run, image_size, open_backbone
from jepa_jax.evaluation.report import ResultsFile
from jepa_jax.evaluation.run import Asked, _ImageTasks, _key, evaluate
from jepa_jax.evaluation.segmentation import SEGMENTATION
from jepa_jax.evaluation.splits import open_splits
from jepa_jax.evaluation.task import Task
from jepa_jax.parallel.sharding import make_mesh
from tests.commands import launch
from tests.saving import save_run
from tests.tiny import tiny

FEW = {"train_images": 300, "test_images": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    config = tiny()
    config.model.depth = 2
    save_run(folder, config)
    return folder


@pytest.fixture
def asked(run, tmp_path) -> Asked:
    recipe = first_run([str(run)]).config
    return Asked([str(run)], ["knn"], recipe, out=str(tmp_path / "out"), **FEW)


def results(asked: Asked) -> list[dict]:
    return json.loads((pathlib.Path(asked.out) / "results.json").read_text())["results"]


def look(run, folder, layers: int = 1, patches: bool = False, how: How | None = None):
    """Features of the test split, and its images and labels."""
    config = first_run([str(run)]).config
    _, test = open_splits(config.data, **FEW)
    backbone = open_backbone(str(run), config, how or How())
    extract = Extractor(backbone, config.data, make_mesh((1, 1, 1)), folder)
    images = np.stack([open_source(config.data, "test")[i].image for i in test.index.tolist()])
    return extract(test, layers, patches).values, images


def test_features_of_two_layers_by_patch_are_those_of_the_loaded_model(run, tmp_path):
    values, images = look(run, tmp_path, 2, patches=True)
    expected = jepa_jax.load(run).patch_features(images, 2)
    assert expected.shape == (100, 16, 32)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    pooled, _ = look(run, tmp_path)
    np.testing.assert_allclose(pooled, expected[..., 16:].mean(1), atol=1e-5)


def test_both_encoders_are_put_side_by_side(run, tmp_path):
    values, images = look(run, tmp_path, how=How(encoder="both"))
    parts = [jepa_jax.load(run, part).features(images) for part in ("target", "context")]
    np.testing.assert_allclose(values, np.concatenate(parts, 1), atol=1e-5)


def test_both_encoders_stand_together_in_each_of_several_layers(run, tmp_path):
    values, images = look(run, tmp_path, 2, how=How(encoder="both"))
    parts = [jepa_jax.load(run, part).features(images, 2) for part in ("target", "context")]
    layers = np.concatenate([part.reshape(100, 2, 16) for part in parts], 2)
    np.testing.assert_allclose(values.reshape(100, 2, 32), layers, atol=1e-5)


def test_the_number_is_scikit_learns_on_the_same_features(asked):
    settings = ["knn.k=5", "knn.neighbours=1"]
    evaluate(dataclasses.replace(asked, checkpoints=["pixels"], settings=settings))
    [found] = results(asked)
    splits = open_splits(tiny().data, **FEW)
    (x, y), test = (
        (np.stack([split.source[i].image.ravel() for i in split.index.tolist()]), split.labels)
        for split in splits
    )
    for k in (1, 5):
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y)
        assert found["rows"][f"k={k}"]["plain"] == theirs.score(*test)
    assert found["best"] == found["rows"]["k=5"]["weighted"]


def test_what_is_finished_is_not_done_again(asked, monkeypatch, capsys):
    evaluate(asked)
    before, table = results(asked), capsys.readouterr().out.splitlines()[:12]
    monkeypatch.setattr("jepa_jax.evaluation.run._run", None)
    monkeypatch.setattr("jepa_jax.evaluation.extractor.mesh_batches", None)
    evaluate(asked)
    assert results(asked) == before
    assert capsys.readouterr().out.splitlines()[:12] == table


def test_the_same_weights_under_another_name_have_a_line_of_their_own(asked, tmp_path, monkeypatch):
    copied = str(shutil.copytree(asked.checkpoints[0], tmp_path / "copy"))
    shown = []
    monkeypatch.setattr("jepa_jax.evaluation.run.result_table", lambda found: shown.append(found))
    evaluate(dataclasses.replace(asked, checkpoints=[*asked.checkpoints, copied]))
    assert [found["checkpoint"] for found in shown] == [
        f"{name}, target encoder, step 30" for name in (*asked.checkpoints, copied)
    ]
    assert shown[0]["rows"] == shown[1]["rows"]
    assert len(results(asked)) == 1


def test_another_protocol_takes_the_same_features(asked, monkeypatch):
    evaluate(asked)
    monkeypatch.setattr("jepa_jax.evaluation.extractor.mesh_batches", None)
    evaluate(dataclasses.replace(asked, protocols=["knn", "linear"]))
    assert [found["protocol"] for found in results(asked)] == ["knn", "linear"]


def test_other_options_images_or_seeds_are_other_results(asked):
    evaluate(asked)
    for change in ({"settings": ["knn.k=3"]}, {"train_images": 200}, {"seed": 1}):
        evaluate(dataclasses.replace(asked, **change))
    assert len(results(asked)) == 4


def test_the_command_shows_one_table_of_all(run, tmp_path):
    done = command(
        f"--checkpoint=pixels,{run}", "--protocol=knn,linear", "--config=configs/digits.py",
        f"--out={tmp_path}", "--train_images=300", "--test_images=100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [(each["checkpoint"], each["protocol"]) for each in found] == [
        (name, protocol)
        for name in ("raw pixels", f"{run}, target encoder, step 30")
        for protocol in ("knn", "linear")
    ]
    summary = done.stdout[done.stdout.index("Results on digits") :]
    for each in found:
        assert f"{100 * each['best']:.1f}" in summary


def command(*arguments: str) -> subprocess.CompletedProcess:
    return launch("evaluate", *arguments)


def complaint(asked: Asked) -> str:
    with pytest.raises(UserError) as error:
        evaluate(asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_of_another_model(asked, tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "'bert'" in complaint(dataclasses.replace(asked, checkpoints=[str(folder)]))


def test_half_a_file(asked, tmp_path):
    pytest.importorskip("torch", reason="needs jepa_jax[interop]")
    (tmp_path / "half.pth.tar").write_bytes(b"PK\x03\x04" + bytes(500))
    said = complaint(dataclasses.replace(asked, checkpoints=[str(tmp_path / "half.pth.tar")]))
    assert "half.pth.tar" in said


def npz(asked: Asked, folder: pathlib.Path, **arrays) -> Asked:
    """The same of arrays by split."""
    for split, content in arrays.items():
        np.savez(folder / f"{split}.npz", images=np.zeros((6, 8, 8), np.uint8), **content)
    config = asked.config.copy_and_resolve_references()
    config.data.update(source="npz", path=f"{folder}/{{split}}.npz")
    return dataclasses.replace(asked, config=config)


def test_images_that_cannot_be_read_are_told_and_taken_in_once_they_can(asked, tmp_path, capsys):
    for split, count in (("train", 12), ("test", 10)):
        (tmp_path / split).mkdir()
        for number in range(count):
            folder = tmp_path / split / "ab"[number % 2]
            folder.mkdir(exist_ok=True)
            pixels = np.full((8, 8), 20 * number, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    broken = tmp_path / "test" / "a" / "4.png"
    sound = broken.read_bytes()
    broken.write_bytes(sound[:20])
    config = asked.config.copy_and_resolve_references()
    config.data.update(source="folder", path=f"{tmp_path}/{{split}}", broken_share=0.1)
    asked = dataclasses.replace(asked, config=config, checkpoints=["pixels"])
    evaluate(asked)
    assert "without 1 of the images, which can't be read" in capsys.readouterr().out
    [found] = results(asked)
    assert found["images"] == {"train": 12, "test": 9}
    evaluate(asked)
    assert results(asked) == [found]  # its time too
    assert "without 1 of the images, which can't be read" in capsys.readouterr().out
    broken.write_bytes(sound)
    evaluate(asked)
    assert results(asked)[-1]["images"] == {"train": 12, "test": 10}
    broken.write_bytes(b"")
    (tmp_path / "test" / "b" / "1.png").write_bytes(b"")
    said = complaint(dataclasses.replace(asked, out=str(tmp_path / "anew")))
    assert "2 of 10 images of split 'test' can't be read, more than data.broken_share=0.1" in said


def test_masks_tell_results_apart(asked, tmp_path):
    def identity(value: int):
        masks = {"masks": np.full((6, 8, 8), value, np.uint8)}
        changed = npz(asked, tmp_path, train=masks, test=masks)
        backbone = open_backbone("pixels", changed.config, How())
        extractor = Extractor(backbone, changed.config.data, make_mesh((1, 1, 1)), tmp_path)
        return _ImageTasks(changed, extractor, {})(SEGMENTATION, SEGMENTATION.options())[1]

    assert identity(0) == identity(0) != identity(1)


def test_images_of_several_sets_are_looked_at_where_they_lie(asked):
    recipe = asked.config.data
    train, test = open_splits(recipe, **FEW)
    own = Task("some", train, test, None, epath.Path("nowhere"), view=EvalView.of(recipe))
    other = dataclasses.replace(own, left_out={"test": {3, 1}})
    task = dataclasses.replace(own, train=None, test=None, sets={"digits": other})
    assert task.all_left_out() == [("digits", "test", 1), ("digits", "test", 3)]
    assert task.mended(task.all_left_out())
    assert not task.mended([])


def test_fine_tuning_has_a_key_of_its_own():
    """Results of before its crops changed are not shown as those of now."""
    options = FINETUNE.options()
    old = digest(["identity", "finetune", dataclasses.asdict(options), 0])
    assert _key("identity", FINETUNE, options, 0) != old
    frozen = dataclasses.replace(FINETUNE, needs="features")
    assert _key("identity", frozen, options, 0) == old


def test_what_a_named_file_holds_tells_results_apart(tmp_path):
    file = tmp_path / "1percent.txt"
    options = LOWSHOT.options(names=str(file))
    keys = set()
    for names in ("a.png", "b.png", "b.png\n"):
        file.write_text(names)
        keys.add(_key("identity", LOWSHOT, options, 0))
    assert len(keys) == 2


def test_missing_labels(asked, tmp_path):
    labels = {"labels": np.arange(6) % 2}
    said = complaint(npz(asked, tmp_path, train=labels, test={}))
    assert "'test' have no labels: there is no array 'labels'" in said


def test_a_class_that_training_lacks(asked, tmp_path):
    splits = {"train": {"labels": np.arange(6) % 2}, "test": {"labels": np.arange(6)}}
    asked = dataclasses.replace(npz(asked, tmp_path, **splits), train_images=10, test_images=10)
    assert "'test' has classes that 'train' lacks: 2, 3, 4, 5" in complaint(asked)


def test_an_image_size_that_does_not_fit_the_patch(asked):
    said = complaint(dataclasses.replace(asked, how=How(size=(8, 9))))
    assert "do not divide into patches of 2: take 8 or 10 instead of 9" in said


def test_both_encoders_of_a_folder_that_holds_one(asked, monkeypatch):
    model = dataclasses.replace(jepa_jax.load(asked.checkpoints[0]), part="")
    monkeypatch.setattr("jepa_jax.evaluation.opening.load", lambda *_: model)
    assert "does not tell which" in complaint(dataclasses.replace(asked, how=How(encoder="both")))


def test_more_layers_than_there_are(asked):
    said = complaint(dataclasses.replace(asked, settings=["knn.layers=3"]))
    assert said == "layers=3, but the encoder has 2: take 1 to 2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checkpoints": ["pixles"]}, "did you mean 'pixels'"),
        ({"checkpoints": ["pixels"], "out": ""}, "say where results go"),
        ({"checkpoints": ["pixels"], "protocols": ["finetune"]}, "needs one encoder of jepa_jax"),
        ({"how": How(encoder="both"), "protocols": ["finetune"]}, "needs one encoder of jepa_jax"),
        ({"checkpoints": ["pixels"], "settings": ["knn.layers=2"]}, "no layers or patches"),
        ({"config": None}, "say which images"),
    ],
)
def test_what_cannot_be_is_answered_in_one_line(asked, change, said):
    assert said in complaint(dataclasses.replace(asked, **change))


def test_damaged_results_are_not_overwritten(asked):
    file = pathlib.Path(asked.out) / "results.json"
    file.parent.mkdir()
    file.write_text('{"results": [{')
    assert "results.json is damaged" in complaint(asked)
    assert file.read_text() == '{"results": [{'


def test_two_commands_on_one_file_keep_the_results_of_both(tmp_path):
    file = epath.Path(tmp_path / "results.json")
    one, other = ResultsFile(file), ResultsFile(file)
    for results, key in ((one, "a"), (other, "b"), (one, "c")):
        results.put(key, {"best": 0.5}, writes=True)
    assert [each["key"] for each in json.loads(file.read_text())["results"]] == ["a", "b", "c"]


def test_a_process_takes_the_result_that_the_first_alone_has_seen(asked, monkeypatch):
    """Another command has put it there meanwhile; whoever computed it would wait for the first."""
    pixels = dataclasses.replace(asked, checkpoints=["pixels"])
    evaluate(pixels)
    answers = iter([*results(pixels), False])  # and none of its images are mended
    monkeypatch.setattr(ResultsFile, "get", lambda *_: None)
    monkeypatch.setattr("jepa_jax.evaluation.run.from_first", lambda _: next(answers))
    monkeypatch.setattr("jepa_jax.evaluation.run._run", None)
    evaluate(pixels)


def test_what_the_command_line_says_of_the_view_holds_for_all_in_the_table(asked):
    config = asked.config.copy_and_resolve_references()
    config.data.update(eval_crop=0.5, interpolation="bicubic")
    how = How(overridden=("data.eval_crop",))
    for name in (asked.checkpoints[0], "untrained", "pixels"):
        assert open_backbone(name, config, how).view.share == 0.5
    own = open_backbone(asked.checkpoints[0], asked.config, How()).view
    seen = open_backbone(asked.checkpoints[0], config, how).view
    assert seen == dataclasses.replace(own, share=0.5)


def test_a_size_of_the_recipe_is_not_passed_over(asked):
    config = asked.config.copy_and_resolve_references()
    config.data.image_size = (16, 16)
    how = How(overridden=("data.image_size",))
    with pytest.raises(UserError, match="give --image_size=16,16 for all"):
        open_backbone(asked.checkpoints[0], config, how)
    larger = open_backbone(asked.checkpoints[0], config, dataclasses.replace(how, size=(16, 16)))
    assert larger.view.size == (16, 16)


def test_a_fast_resizer_that_cannot_be_had_is_refused_before_the_first_image(asked):
    config = asked.config.copy_and_resolve_references()
    config.data.update(resizer="fast", interpolation="bicubic")
    how = How(overridden=("data.resizer", "data.interpolation"))
    with pytest.raises(UserError, match='set it to "exact"'):
        open_backbone(asked.checkpoints[0], config, how)


def test_the_command_says_which_keys_it_sets(monkeypatch):
    words = ["evaluate.py", "--config=a.py", "--config.data.eval_crop=1", "--seed", "1"]
    monkeypatch.setattr("sys.argv", words)
    assert cli.overridden() == ["data.eval_crop"]


def test_an_image_size_is_one_number_or_two():
    assert image_size(["8"]) == (8, 8)
    assert image_size(["8", "16"]) == (8, 16)
    for wrong in ("large", "0", "-8"):
        with pytest.raises(UserError, match="write it as"):
            image_size([wrong])
