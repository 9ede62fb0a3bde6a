"""The evaluation stage on artifacts: its rows, its numbers for Kubeflow and run.json, and whose labels it may use."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.evaluation import stage as module
from ferry.evaluation.component import evaluate
from ferry.evaluation.lineage import used_parameters
from ferry.evaluation.stage import evaluation_stage
from ferry.faces import EXPRESSIONS, FaceRecord, open_faces, open_unlabelled, render_faces
from ferry.faces.pseudo_labels import PseudoLabels
from ferry.faces.stage import holdout_stage, target_stage
from ferry.faces.writer import FacesWriter
from ferry.labelling.stage import labelling_stage
from ferry.networks import Architecture, Outputs, build_classifier, build_encoder, load_imported, save_model
from ferry.networks.saved import load_info
from ferry.networks.trained import save_trained, skip_model
from ferry.training import TrainResult
from kfp import dsl

SMALL = Architecture(name="resnet10", width=4, input_size=16)
PRETRAINING = [
    {"kind": "step", "step": 10, "loss": 2.5, "perplexity": 9.0},
    {"kind": "epoch", "step": 10, "loss": 99.0, "seconds": 1.0},
    {"kind": "step", "step": 20, "loss": 1.5, "perplexity": 8.0},
]


class Room:
    """Artifacts of a small run, made once."""

    def __init__(self, folder):
        self.folder = folder
        for name, size in (("faces", 16), ("others", 20)):  # the same keys, other pictures
            render_faces(folder / name, 84, "shaded", 0, size=size, splits={"train": 0.5, "test": 0.5})
        target_stage(str(folder / "faces"), folder / "target", StageRecord("t"), layout="auto", split="train")
        for name, source, split in (("holdout", "faces", "test"), ("all", "faces", ""), ("foreign", "others", "")):
            choices = {"layout": "auto", "split": split, "allow_overlap": True}
            holdout_stage(str(folder / source), folder / name, folder / "target", StageRecord("h"), **choices)
        none = {"layout": "auto", "split": "test", "allow_overlap": False}
        holdout_stage("", folder / "none", folder / "target", StageRecord("h"), **none)
        choices = {"layout": "auto", "split": "test", "allow_overlap": True, "target_labels": str(folder / "faces")}
        for name, source in (("judged", folder / "faces"), ("judged-only", "")):
            holdout_stage(str(source), folder / name, folder / "target", StageRecord("h"), **choices)
        for seed, name in enumerate(("source", "adabn")):
            self.save(name, seed)
        self.pretrain("encoder")
        steps = [{"kind": "step", "step": 5, "loss": 0.75, "accuracy": 0.5}]
        result = TrainResult(steps, 798, 51072, 40.0, "cpu", "bf16")
        settings = {"start": "pretrained", "steps": 800, "precision": "auto", "mixup": 0.2}
        model = build_classifier(SMALL, EXPRESSIONS, seed=2)
        save_trained(model, folder / "adapted", result, method="clup", lineage={}, settings=settings)
        skip_model(folder / "skipped", "The source is a foreign model.")
        models = {"source": folder / "source"}
        given = {"score": "purity", "clusters": 8, "keep": 0.5, "seed": 0}
        labelling_stage(folder / "target", models, "source", folder / "labels", StageRecord("l"), **given)

    def save(self, name, seed, classes=EXPRESSIONS):
        model = build_classifier(SMALL, classes, seed=seed)
        save_model(model, self.folder / name, method="test", lineage={})

    def pretrain(self, name, collapse=()):
        result = TrainResult(PRETRAINING, 540, 5120, 75.0, "cpu", "bf16")
        facts = {"prototypes": 12, "collapse": list(collapse)}
        settings = {"init": "source", "epochs": 20, "precision": "auto"}
        lineage = {"method": "swav", "lineage": {}, "settings": settings, "facts": facts}
        save_trained(build_encoder(SMALL, 7), self.folder / name, result, **lineage)

    def run(self, output, holdout="holdout", adabn="adabn", adapted="adapted", pretrained="encoder", **choices):
        f, record = self.folder, StageRecord("evaluate")
        data = {"target": f / "target", "holdout": f / holdout, "labels": f / "labels"}
        models = {"source": f / "source", "adabn": f / adabn, "adapted": f / adapted, "pretrained": f / pretrained}
        outputs = {"evaluation": output / "evaluation", "report": output / "report"}  # Kubeflow gives no suffix
        found = evaluation_stage(data, models, outputs, record, method="CluP", **choices)
        return found, record, json.loads((output / "evaluation" / "metrics.json").read_text()), outputs["report"]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return Room(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module", autouse=True)
def _no_picture_of_features():
    """t-SNE has tests of its own and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ferry.evaluation.record.embed", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def plain(room, tmp_path_factory):
    """What a run without choices gives and leaves."""
    return room.run(tmp_path_factory.mktemp("plain"))


def text_of(report):
    """The words of a page, with single spaces."""
    return " ".join(re.sub(r"<[^>]+>", " ", report.read_text()).replace("\N{NO-BREAK SPACE}", " ").split())


def table_of(report, caption):
    """First and second cell of every row of a table, by its caption."""
    page = report.read_text()
    start = page.index("<tbody>", page.index(f"<caption>{caption}</caption>"))
    rows = re.findall(r"<tr><th[^>]*>(.*?)</th><td>(.*?)</td></tr>", page[start : page.index("</table>", start)], re.S)
    return {re.sub(r"<[^>]+>", "", key).strip(): re.sub(r"<[^>]+>", "", value).strip() for key, value in rows}


def features_of(room, name):
    """What a model's features of the holdout are."""
    model, holdout = load_imported(room.folder / name), open_faces(room.folder / "holdout")
    return np.asarray(model.outputs(holdout.pixels(model.input_size, model.channels)).features, np.float64)


def test_three_rows_with_their_numbers_in_every_place(room, plain):
    found, record, written, report = plain
    assert written["order"] == ["source-only", "AdaBN", "CluP"]
    assert (written["source"], written["adapted"]) == ("source-only", "CluP")
    assert set(record.facts["metrics"]) == {"source", "adabn", "adapted"}
    assert record.facts["names"] == {"source": "source-only", "adabn": "AdaBN", "adapted": "CluP"}
    for key, name in (("source", "source-only"), ("adabn", "AdaBN"), ("adapted", "CluP")):
        assert record.facts["metrics"][key] == written["rows"][name]["metrics"]
    holdout = open_faces(room.folder / "holdout")
    assert np.array(found.matrix).sum(1).tolist() == np.bincount(holdout.labels, minlength=7).tolist()
    assert found.classes == list(EXPRESSIONS)
    assert found.scalars["adapted_accuracy"] == pytest.approx(np.trace(found.matrix) / len(holdout))
    assert found.scalars["source_accuracy"] == record.facts["metrics"]["source"]["accuracy"]
    assert all(np.isfinite(value) for value in found.scalars.values())
    page = report.read_text()
    assert all(f">{name}<" in page.replace("\n", "") for name in ("source-only", "AdaBN", "CluP"))
    assert "No embedding" in page
    assert "How many are right is not known" in page  # no face of the target has a label here
    labels = PseudoLabels.load(room.folder / "labels")
    kept = written["target"]["kept"]
    assert (written["target"]["images"], sum(kept.values())) == (len(labels), labels.columns.kept.sum())
    assert list(kept) == list(EXPRESSIONS)


def test_a_class_without_pseudo_labels_is_in_the_report_and_in_the_metrics_but_not_warned_of_twice(plain):
    _, record, written, report = plain
    lost = [name for name, count in written["target"]["kept"].items() if count == 0]
    assert lost
    (text,) = [alarm["text"] for alarm in written["alarms"] if "No pseudo-label is left" in alarm["text"]]
    assert all(name in text for name in lost)
    assert text in report.read_text()
    assert record.warnings
    assert not [warning for warning in record.warnings if "pseudo-label" in warning]


@pytest.mark.slow
@pytest.mark.parametrize("worse", [True, False])
def test_an_adaptation_that_is_worse_than_its_source_is_warned_of(room, tmp_path, monkeypatch, worse):
    labels = open_faces(room.folder / "holdout").labels

    def load(path):
        """A source model and an AdaBN model that are right on half of the holdout, and an adapted one."""
        shares = {"source": 0.5, "adabn": 0.5, "adapted": 0.0 if worse else 1.0}
        right = np.arange(len(labels)) < shares[path.name] * len(labels)
        logits = torch.from_numpy(np.eye(7)[np.where(right, labels, (labels + 1) % 7)] * 3)
        outputs = Outputs(logits, logits)
        return SimpleNamespace(
            classes=EXPRESSIONS, input_size=16, channels=1, digest="d", outputs=lambda pixels: outputs
        )

    monkeypatch.setattr(module, "load_imported", load)
    _, record, written, _ = room.run(tmp_path)
    assert written["verdict"]["level"] == ("worse" if worse else "better")
    told = [warning for warning in record.warnings if "Keep the source model" in warning]
    assert [written["verdict"]["sentence"] in warning for warning in told] == ([True] if worse else [])


def test_persons_of_the_holdout_are_not_listed(room, plain):
    """Groups of a Faces folder are persons or videos: they are for splits, and no table of a report or card."""
    _, _, written, report = plain
    persons = open_faces(room.folder / "holdout").groups
    assert len(set(persons)) > 1
    assert written["rows"]["CluP"]["groups"] == {}
    assert not [person for person in persons if person in report.read_text()]


def test_a_row_that_could_not_be_made_is_left_out_by_name(room, tmp_path):
    _, record, written, report = room.run(tmp_path, adabn="skipped")
    assert written["order"] == ["source-only", "CluP"]
    assert set(record.facts["metrics"]) == {"source", "adapted"}
    assert "The row AdaBN: The source is a foreign model." in report.read_text()


def test_a_method_without_pseudo_labels_and_pretraining_has_a_report_of_its_own(room, tmp_path):
    f, record = room.folder, StageRecord("evaluate")
    data = {"target": f / "target", "holdout": f / "holdout"}
    outputs = {"evaluation": tmp_path / "evaluation", "report": tmp_path / "report"}
    models = {"source": f / "source", "adapted": f / "adabn"}
    evaluation_stage(data, models, outputs, record, method="AdaBN")
    written = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert written["order"] == ["source-only", "AdaBN"]
    assert written["target"] == {"images": 42}
    text = text_of(outputs["report"])
    assert "AdaBN adaptation report" in text
    assert "Pseudo-labels" not in text
    parts = table_of(outputs["report"], "Lineage")
    assert {"model source", "model adapted"} <= set(parts)
    assert not [name for name in parts if "pseudo" in name or "pretrained" in name]


def test_without_a_holdout_the_target_gives_shares_and_no_accuracy(room, tmp_path):
    found, record, written, report = room.run(tmp_path, holdout="none")
    assert (found.scalars, found.matrix) == ({}, [])
    assert written["images"] == len(open_unlabelled(room.folder / "target"))
    assert record.facts["metrics"]["adapted"]["n"] == 0
    assert written["rows"]["CluP"]["label_free"]["shares"].keys() == set(EXPRESSIONS)
    assert "No labelled holdout was given" in report.read_text()


def test_faces_that_the_holdout_shares_tell_how_many_pseudo_labels_are_right(room, tmp_path):
    *_, report = room.run(tmp_path, holdout="all")
    target, everything = open_unlabelled(room.folder / "target"), open_faces(room.folder / "all")
    truth = {everything.image(row): label for row, label in enumerate(everything.labels)}
    labels = PseudoLabels.load(room.folder / "labels").align(target.keys).columns.label
    right = np.mean([truth[target.image(row)] == label for row, label in enumerate(labels)])
    assert (
        f"is known of all faces; no training saw it. There {100 * right:.1f} % of all pseudo-labels are right"
        in text_of(report)
    )


@pytest.mark.parametrize(("holdout", "shared"), [("all", 42), ("holdout", 0), ("foreign", 0), ("judged", 0)])
def test_pictures_that_are_in_both_are_an_alarm_which_the_import_has_warned_of(room, tmp_path, holdout, shared):
    """Of the foreign ones only the keys are those of the target's faces."""
    _, record, written, report = room.run(tmp_path, holdout=holdout)
    found = [alarm for alarm in written["alarms"] if "are in the target too" in alarm["text"]]
    assert [alarm["level"] for alarm in found] == ["warning"] * bool(shared)
    assert ("How many are right is not known" in text_of(report)) == (holdout in ("holdout", "foreign"))
    if shared:
        assert found[0]["text"].startswith("42 of 84 holdout faces are in the target too, as was allowed")
        assert found[0]["text"] in text_of(report)
    assert not [warning for warning in record.warnings if "are in the target too" in warning]


@pytest.mark.parametrize("shared", [0, 42])
def test_pictures_that_the_import_has_counted_are_not_compared_again(room, tmp_path, monkeypatch, shared):
    monkeypatch.delattr("ferry.evaluation.stage.shared_faces")
    _, _, written, report = room.run(tmp_path, holdout="all", shared=shared)
    found = [alarm["text"] for alarm in written["alarms"] if "are in the target too" in alarm["text"]]
    assert len(found) == bool(shared)
    assert ("How many are right is not known" in text_of(report)) == (not shared)


@pytest.mark.parametrize("holdout", ["judged", "judged-only"])
def test_labels_of_the_target_judge_pseudo_labels_and_count_into_no_accuracy(room, plain, tmp_path, holdout):
    found, _, written, report = room.run(tmp_path, holdout=holdout)
    target, known = open_unlabelled(room.folder / "target"), open_faces(room.folder / holdout, "target")
    labels = PseudoLabels.load(room.folder / "labels").align(known.keys).columns
    right = labels.label == known.labels
    quality = written["target"]["pseudo_labels"]
    assert (quality["known"], quality["n"]) == (len(target), len(target)) == (42, 42)
    assert quality["accuracy"] == pytest.approx(right.mean())
    assert quality["kept_accuracy"] == pytest.approx(right[labels.kept].mean())
    assert f"the true label is known of all faces; no training saw it. There {100 * right.mean():.1f} %" in text_of(
        report
    )
    if holdout == "judged":
        assert (found, written["rows"]) == (plain[0], plain[2]["rows"])
        assert "labelled target faces.digest" in table_of(report, "Lineage")
    else:
        assert (found.scalars, written["n"]) == ({}, 0)


def test_the_report_says_of_how_many_faces_the_true_label_is_known(room, tmp_path):
    some = room.folder / "some"
    target = open_unlabelled(room.folder / "target")
    with FacesWriter(some, classes=EXPRESSIONS) as writer:
        writer.begin("test")
        for row in range(5):
            writer.add("target", FaceRecord(target.image(row), target.keys[row], 3))
    _, _, written, report = room.run(tmp_path, holdout="some")
    assert written["target"]["pseudo_labels"]["known"] == 5
    assert "the true label is known of 5 of 42 faces; no training saw it. There" in text_of(report)


def test_trainings_are_in_the_report_with_their_curves(plain):
    text = text_of(plain[3])
    assert "Pretraining SwAV, 5,120 images (with repetition) in 1 min 15 s on cpu." in text
    assert "From 2.5 to 1.5. Dashed: ln K = 2.485." in text  # of steps, not the means over epochs
    assert "From 9 to 8. Dashed: K = 12." in text
    assert "Fine-tuning CluP, 51,072 images (with repetition) in 40 s on cpu." in text
    assert "From 0.75 to 0.75." in text
    assert "From 0.5 to 0.5. Mixup blends each face with another one" in text
    assert text.count("Mixup blends") == 1


def test_a_training_without_mixup_has_no_word_of_it(room, tmp_path):
    result = TrainResult([{"kind": "step", "step": 5, "loss": 0.75, "accuracy": 0.5}], 798, 51072, 40.0, "cpu", "bf16")
    model = build_classifier(SMALL, EXPRESSIONS, seed=2)
    save_trained(model, room.folder / "plain", result, method="clup", lineage={}, settings={"mixup": 0.0})
    text = text_of(room.run(tmp_path, adapted="plain")[3])
    assert "From 0.5 to 0.5." in text
    assert "Mixup" not in text


def test_parameters_are_those_that_were_used(room, plain):
    found = table_of(plain[3], "Parameters")
    assert (found["pretraining.init"], found["pretraining.epochs"]) == ("source", "20")
    assert found["pretraining.precision"] == found["fine-tuning.precision"] == "bf16"  # and not auto
    assert (found["pretraining.steps"], found["fine-tuning.steps"]) == ("540", "798")
    assert (found["fine-tuning.start"], found["fine-tuning.mixup"]) == ("pretrained", "0.2")
    assert (found["labelling.clusters"], found["labelling.keep"]) == ("8", "0.5")
    assert (found["labelling.teacher"], found["labelling.score"]) == ("source", "purity")
    record = StageRecord("l")
    unset = {"score": "confidence", "clusters": 0, "keep": 0.0, "seed": 0}
    labelling_stage(room.folder / "target", {"source": room.folder / "source"}, "source", room.folder / "ruled",
                    record, **unset)  # fmt: skip
    labels = PseudoLabels.load(room.folder / "ruled")
    ruled = used_parameters({"pretrained": room.folder / "skipped", "adapted": room.folder / "source"}, labels)
    assert (labels.config["clusters"], labels.config["keep"]) == (None, None)
    assert (ruled["labelling.clusters"], ruled["labelling.keep"]) == (record.facts["clusters"], 0.5)
    assert not [name for name in ruled if not name.startswith("labelling.")]


def test_lineage_names_every_part_by_its_digest_and_where_it_came_from(room, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRY_RUN_ID", "20260101-clup")
    *_, report = room.run(tmp_path, origin="models:/source@champion")
    found = table_of(report, "Lineage")
    f = room.folder
    for key, name in (("source", "source"), ("adabn", "adabn"), ("adapted", "adapted"), ("pretrained", "encoder")):
        assert found[f"model {key}"] == load_info(f / name).digest
    assert len({found[f"model {key}"] for key in ("source", "adabn", "adapted", "pretrained")}) == 4
    assert found["model source, taken from"] == "models:/source@champion"
    assert found["pseudo-labels"] == PseudoLabels.load(f / "labels").align(open_unlabelled(f / "target").keys).digest
    for name, split, faces in (
        ("target", "train", open_unlabelled(f / "target")),
        ("holdout", "test", open_faces(f / "holdout")),
    ):
        place = {key.removeprefix(f"{name} faces."): value for key, value in found.items() if key.startswith(name)}
        assert place == {"source": str(f / "faces"), "layout": "faces", "split": split, "digest": faces.digest}
    assert found["run"] == "20260101-clup"


def test_lineage_leaves_out_what_is_not_there(room, tmp_path):
    *_, report = room.run(tmp_path, holdout="none", adabn="skipped", pretrained="skipped")
    found = table_of(report, "Lineage")
    assert not [name for name in found if "holdout" in name or "adabn" in name or "pretrained" in name]
    assert not [name for name in found if "taken from" in name]


def test_another_choice_of_kept_labels_has_another_digest(room):
    labels = PseudoLabels.load(room.folder / "labels")
    assert labels.digest == PseudoLabels.load(room.folder / "labels").digest
    assert labels.digest != replace(labels, columns=replace(labels.columns, kept=~labels.columns.kept)).digest


def test_times_are_those_of_the_stages_that_are_done(room, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRY_STAGE_FOLDER", str(tmp_path / "stages"))
    (tmp_path / "stages").mkdir()
    for name, started, ended in (("pretrain", 20.0, 95.0), ("import-target", 10.0, 13.5), ("evaluate", 95.0, None)):
        entry = {"name": name, "started": started, "ended": ended}
        (tmp_path / "stages" / f"{name}.json").write_text(json.dumps(entry))
    *_, report = room.run(tmp_path)
    found = table_of(report, "Time by stage")
    assert found == {"import-target": "3.5 s", "pretrain": "1 min 15 s", "Together": "1 min 18 s"}


def test_pictures_and_ranks_are_of_the_features_and_not_of_the_logits(room, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ferry.evaluation.record.embed", lambda features, *_: drawn.append(features))
    _, _, written, _ = room.run(tmp_path)
    wanted = {name: features_of(room, name) for name in ("source", "adabn", "adapted")}
    assert [np.asarray(one).shape for one in drawn] == [wanted["source"].shape, wanted["adapted"].shape]
    for one, name in zip(drawn, ("source", "adapted"), strict=True):
        np.testing.assert_allclose(one, wanted[name], rtol=1e-4, atol=1e-5)
    for key, name in (("source", "source-only"), ("adabn", "AdaBN"), ("adapted", "CluP")):
        values = np.linalg.svd(wanted[key], compute_uv=False)
        shares = values[values > 0] / values.sum()
        rank = np.exp(-(shares * np.log(shares)).sum())
        assert written["rows"][name]["label_free"]["feature_rank"] == pytest.approx(rank, rel=1e-3)


def test_the_histogram_is_of_the_clusters_purity(room, plain):
    purity = PseudoLabels.load(room.folder / "labels").columns.purity
    assert purity.std() > 0
    assert f"Mean purity {purity.mean():.3f}." in text_of(plain[3])


def test_a_collapse_that_the_pretraining_has_warned_of_is_in_the_report_and_not_warned_of_twice(room, plain, tmp_path):
    room.pretrain("collapsed", ["The codes tell no image from another."])
    _, record, written, report = room.run(tmp_path, pretrained="collapsed")
    text = "Pretraining ended with a sign of collapse. The codes tell no image from another."
    assert {"level": "warning", "text": text} in written["alarms"]
    assert text in text_of(report)
    assert not [warning for warning in record.warnings if "sign of collapse" in warning]
    assert not [alarm for alarm in plain[2]["alarms"] if "sign of collapse" in alarm["text"]]


def test_the_door_leaves_numbers_matrix_and_page_where_kubeflow_looks_for_them(room, plain, tmp_path, monkeypatch):
    monkeypatch.delenv("FERRY_STAGE_FOLDER", raising=False)
    inputs = {"target": "target", "holdout": "holdout", "source": "source", "adabn": "adabn", "adapted": "adapted",
              "pretrained": "encoder", "labels": "labels"}  # fmt: skip
    kinds = {"evaluation": dsl.Artifact, "metrics": dsl.Metrics, "confusion": dsl.ClassificationMetrics,
             "report": dsl.HTML}  # fmt: skip
    given = {name: dsl.Artifact(uri=str(room.folder / place)) for name, place in inputs.items()}
    given["source"].metadata["source"] = "/models/source"
    made = {name: kind(uri=str(tmp_path / name)) for name, kind in kinds.items()}
    evaluate.python_func(**made, **given, method="CluP", scored="", seed=0)
    found = plain[0]
    assert made["metrics"].metadata == found.scalars
    matrix = made["confusion"].metadata["confusionMatrix"]
    assert [one["displayName"] for one in matrix["annotationSpecs"]] == found.classes
    assert [row["row"] for row in matrix["rows"]] == found.matrix
    assert (tmp_path / "report").read_text().startswith("<!doctype html>")
    assert (tmp_path / "evaluation" / "report.html").read_bytes() == (tmp_path / "report").read_bytes()
    assert table_of(tmp_path / "report", "Lineage")["model source, taken from"] == "/models/source"


@pytest.mark.integration
def test_mlflow_holds_the_numbers_and_a_report_that_it_serves_as_a_page(room, plain, tmp_path, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.server.handlers import _guess_mime_type

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    _, record, _, report = room.run(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert sorted(one.path for one in client.list_artifacts(run.info.run_id, "evaluation")) == [
        "evaluation/metrics.json",
        "evaluation/report.html",
    ]
    local = client.download_artifacts(run.info.run_id, "evaluation/report.html", str(tmp_path))
    assert Path(local).read_bytes() == report.read_bytes()
    assert _guess_mime_type(local) == "text/html"
    accuracy = record.facts["metrics"]["adapted"]["accuracy"]
    assert run.data.metrics["evaluation/adapted/accuracy"] == pytest.approx(accuracy)


def test_other_classes_than_the_holdouts_are_refused(room, tmp_path):
    room.save("wrong", 3, EXPRESSIONS[::-1])
    with pytest.raises(UserError, match="`holdout classes` to be those of the model CluP"):
        room.run(tmp_path, adapted="wrong")


def test_classes_that_count_can_be_chosen_and_misspelt(room, tmp_path):
    _, _, written, _ = room.run(tmp_path, scored="happiness, neutral")
    assert written["scored_classes"] == ["happiness", "neutral"]
    with pytest.raises(UserError, match="Did you mean 'neutral'"):
        room.run(tmp_path, scored="happiness,neutrl")


def test_numbers_and_files_go_to_the_tracker(room, tmp_path, monkeypatch):
    sent = {}

    class Tracker:
        def metrics(self, values, step):
            sent.update(values)

        def artifact(self, path):
            sent[path.name] = path.is_file()

    @contextmanager
    def open_tracker(stage):
        yield Tracker()

    monkeypatch.setattr(module, "open_tracker", open_tracker)
    _, record, _, _ = room.run(tmp_path)
    assert (sent["report.html"], sent["metrics.json"], "report" in sent) == (True, True, False)
    for key in ("source", "adabn", "adapted"):
        assert sent[f"{key}/mean_class_accuracy"] == record.facts["metrics"][key]["mean_class_accuracy"]
