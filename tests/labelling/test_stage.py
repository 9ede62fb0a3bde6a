"""The labelling stage on artifacts: who labels, and what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.faces import drop_labels, render_faces
from ferry.faces.pseudo_labels import PseudoLabels
from ferry.labelling.stage import labelling_stage
from ferry.networks import Architecture, build_classifier, save_model
from ferry.networks.trained import skip_model

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
CHOICES = {"score": "purity", "clusters": 5, "keep": 0.5, "seed": 0}


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    render_faces(folder / "labelled", 70, "shaded", 0, size=16, splits={"train": 1.0})
    drop_labels(folder / "labelled", folder / "unlabelled")
    return folder / "unlabelled"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two teachers that differ, so that a table shows which of them labelled."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("source", "adabn")):
        model = build_classifier(Architecture(width=4, input_size=16), CLASSES, seed=seed)
        save_model(model.eval(), folder / name, method=name, lineage={})
    return {name: folder / name for name in ("source", "adabn")}


def labels_of(target, models, teacher, output, **changes):
    record = StageRecord("pseudo-label")
    labelling_stage(target, models, teacher, output, record, **{**CHOICES, **changes})
    found = PseudoLabels.load(output)
    assert found.summary["teacher"] == record.facts["teacher"]
    return found.columns.teacher.tolist(), record.facts["teacher"]


def test_auto_takes_the_teacher_with_the_targets_statistics(target, models, tmp_path):
    found = {name: labels_of(target, models, name, tmp_path / name) for name in ("auto", "adabn", "source")}
    assert found["auto"] == found["adabn"]
    assert found["auto"][0] != found["source"][0]
    assert [found[name][1] for name in ("auto", "source")] == ["adabn", "source"]


def test_auto_takes_the_source_where_its_statistics_cannot_be_re_estimated(target, models, tmp_path):
    skip_model(tmp_path / "skipped", "The source is a foreign model.")
    given = {**models, "adabn": tmp_path / "skipped"}
    assert labels_of(target, given, "auto", tmp_path / "auto") == labels_of(target, models, "source", tmp_path / "own")
    with pytest.raises(UserError, match=r"`labelling_teacher` to be source for this model.*foreign model"):
        labels_of(target, given, "adabn", tmp_path / "out")


def test_in_the_released_preset_auto_is_the_plain_source_model(target, models, tmp_path):
    found = {
        name: labels_of(target, models, name, tmp_path / name, preset="released")
        for name in ("auto", "source", "adabn")
    }
    assert found["auto"] == found["source"]
    assert found["auto"][0] != found["adabn"][0]
    assert [found[name][1] for name in ("auto", "adabn")] == ["source", "adabn"]


def test_an_unknown_teacher_is_refused_with_the_closest_name(target, models, tmp_path):
    with pytest.raises(UserError, match=r"`labelling_teacher` to be one of auto, adabn, source.*Did you mean 'adabn'"):
        labels_of(target, models, "adabm", tmp_path / "out")


def test_a_torchscript_teacher_whose_import_was_trusted_labels(target, tmp_path):
    import torch
    from ferry.networks import write_sidecar
    from ferry.networks.stage import import_model_stage

    class Light(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :7]

    path = tmp_path / "light.pt"
    torch.jit.script(Light()).save(str(path))
    write_sidecar(path, CLASSES, size=16, channels=1, multiply=1 / 255, add=0, logits_output="0")
    import_model_stage(str(path), tmp_path / "source", StageRecord("import-model"), trust=True)
    skip_model(tmp_path / "adabn", "foreign")
    given = {"source": tmp_path / "source", "adabn": tmp_path / "adabn"}
    assert labels_of(target, given, "auto", tmp_path / "labels")[1] == "source"


def test_the_released_preset_sets_the_switches_of_the_released_code(target, models, tmp_path):
    choices = {**CHOICES, "preset": "released", "keep": 0.0}
    labelling_stage(target, models, "source", tmp_path / "out", StageRecord("l"), **choices)
    found = PseudoLabels.load(tmp_path / "out")
    plain = labels_of(target, models, "source", tmp_path / "plain")[0]
    assert (found.config["view"], found.config["quota"], found.config["keep"]) == ("augmented", "floor", 0.1)
    assert found.config["clusters"] == 5
    assert found.columns.teacher.tolist() != plain


def teacher_says(monkeypatch, groups, labels):
    """Lets the teacher put 70 faces into groups of features and give them labels."""
    logits, features = 9 * np.eye(7, dtype=np.float32)[labels], np.eye(4, dtype=np.float32)[groups]
    monkeypatch.setattr("ferry.labelling.stage.teacher_outputs", lambda *given: (logits, features))


def test_each_lost_class_is_warned_of_with_the_advice_for_its_reason(target, models, tmp_path, monkeypatch):
    """Three clusters: of anger with two of happiness, of disgust, and of five faces of fear."""
    labels = np.repeat([0, 3, 1, 2], [33, 2, 30, 5])
    teacher_says(monkeypatch, np.repeat([0, 0, 1, 2], [33, 2, 30, 5]), labels)
    record, choices = StageRecord("pseudo-label"), {**CHOICES, "preset": "released", "clusters": 3, "keep": 0.1}
    made = labelling_stage(target, models, "auto", tmp_path / "out", record, **choices)
    lost = {name: next(text for text in record.warnings if f"of {name} was" in text) for name in CLASSES[2:]}
    assert len(record.warnings) == len(lost) == 5
    assert made["lost_classes"] == ", ".join(sorted(lost))
    assert record.facts["lost_classes"] == sorted(lost)
    for name, reason in PseudoLabels.load(tmp_path / "out").summary["lost_classes"].items():
        assert f"({reason})" in lost[name]
    assert "no image" in lost["sadness"]
    assert lost["sadness"].endswith(
        "Try labelling_teacher=adabn; where that gives it to none either, only another source model can bring it back, "
        "if the target has such faces at all."
    )
    for other in ("clusters", "keep=", "labelling_keep", "confidence"):
        assert other not in lost["sadness"]
    assert lost["happiness"].endswith("More labelling_clusters, or labelling_score=confidence, may bring it back.")
    assert lost["fear"].endswith(
        "A larger labelling_keep, or labelling_preset=clean, which keeps at least one, brings it back."
    )


@pytest.mark.parametrize(
    ("class_at", "changes"),
    [(3, {"clusters": 4}), (3, {"score": "confidence", "keep": 0.5}), (2, {"keep": 0.2}), (2, {"preset": "clean"})],
)
def test_the_advice_brings_the_class_back(target, models, tmp_path, monkeypatch, class_at, changes):
    groups = np.repeat([0, 3, 1, 2], [33, 2, 30, 5])
    if "clusters" not in changes:
        groups[groups == 3] = 0
    teacher_says(monkeypatch, groups, np.repeat([0, 3, 1, 2], [33, 2, 30, 5]))
    record, choices = StageRecord("l"), {**CHOICES, "preset": "released", "clusters": 3, "keep": 0.5, **changes}
    labelling_stage(target, models, "source", tmp_path / "out", record, **choices)
    assert CLASSES[class_at] not in record.facts["lost_classes"]


def test_without_another_teacher_none_is_advised(target, models, tmp_path, monkeypatch):
    skip_model(tmp_path / "adabn", "foreign")
    teacher_says(monkeypatch, np.arange(70) % 4, np.zeros(70, int))
    record = StageRecord("pseudo-label")
    labelling_stage(target, {**models, "adabn": tmp_path / "adabn"}, "auto", tmp_path / "out", record, **CHOICES)
    assert len(record.warnings) == 6
    assert all("learn it. Only another source model can bring it back" in text for text in record.warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "relased"}, "`labelling_preset` to be one of clean, released.*Did you mean 'released'"),
        ({"score": "puriti"}, "`labelling_score` to be one of purity, confidence.*Did you mean 'purity'"),
        ({"keep": 2.0}, "`labelling_keep` to be above 0 and at most 1, but got 2.0"),
        ({"clusters": -1}, "`labelling_clusters` to be at least 1, but got -1"),
        ({"clusters": 71}, "`labelling_clusters` to be at most the number of rows, 70, but got 71"),
        ({"preset": "released", "clusters": 0}, "`labelling_clusters` to be at most the number of rows, 70"),
    ],
)
def test_settings_that_do_not_fit_are_named_as_the_pipeline_knows_them(target, models, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        labelling_stage(target, models, "source", tmp_path / "out", StageRecord("l"), **{**CHOICES, **changes})
    assert not (tmp_path / "out").exists()
