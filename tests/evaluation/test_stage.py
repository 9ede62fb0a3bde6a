"""The evaluation stage on artifacts: its rows, its numbers for Kubeflow and run.json, and whose labels it may use."""

from __future__ import annotations

import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.evaluation import stage as module
from ferry.evaluation.stage import evaluation_stage
from ferry.faces import EXPRESSIONS, open_faces, open_unlabelled, render_faces
from ferry.faces.pseudo_labels import PseudoLabels
from ferry.faces.stage import holdout_stage, target_stage
from ferry.labelling.stage import labelling_stage
from ferry.networks import Architecture, Outputs, build_classifier, save_model
from ferry.networks.trained import skip_model


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
        for seed, name in enumerate(("source", "adabn", "adapted")):
            self.save(name, seed)
        skip_model(folder / "skipped", "The source is a foreign model.")
        models = {"source": folder / "source"}
        given = {"score": "purity", "clusters": 8, "keep": 0.5, "seed": 0}
        labelling_stage(folder / "target", models, "source", folder / "labels", StageRecord("l"), **given)

    def save(self, name, seed, classes=EXPRESSIONS):
        model = build_classifier(Architecture(name="resnet10", width=4, input_size=16), classes, seed=seed)
        save_model(model, self.folder / name, method="test", lineage={})

    def run(self, output, holdout="holdout", adabn="adabn", adapted="adapted", **choices):
        f, record = self.folder, StageRecord("evaluate")
        data = {"target": f / "target", "holdout": f / holdout, "labels": f / "labels"}
        models = {"source": f / "source", "adabn": f / adabn, "adapted": f / adapted, "pretrained": f / "skipped"}
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


def test_three_rows_with_their_numbers_in_every_place(room, plain):
    found, record, written, report = plain
    assert written["order"] == ["source-only", "AdaBN", "CluP"]
    assert (written["source"], written["adapted"]) == ("source-only", "CluP")
    assert set(record.facts["metrics"]) == {"source", "adabn", "adapted"}
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
    assert "how many are right is not known" in page  # no face of the target has a label here
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
    assert f"{100 * right:.1f} % of all pseudo-labels are right" in " ".join(report.read_text().split())


def test_equal_keys_of_other_pictures_tell_nothing(room):
    target, others = open_unlabelled(room.folder / "target"), open_faces(room.folder / "foreign")
    assert set(target.keys) & {module.anonymous_key(key) for key in others.keys}
    assert module._true_labels(target, others) is None


def test_only_shared_faces_have_a_known_label(room):
    target, everything = open_unlabelled(room.folder / "target"), open_faces(room.folder / "all")
    assert (module._true_labels(target, everything) >= 0).all()
    assert module._true_labels(target, open_faces(room.folder / "holdout")) is None


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
