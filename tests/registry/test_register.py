from __future__ import annotations

import hashlib
import json
import pickletools
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import ferry
import pytest
import torch
from ferry.common.errors import RetryableError, UserError
from ferry.common.stage import StageRecord
from ferry.networks import load_classifier, load_info, load_source
from ferry.registry import Registry
from ferry.registry import register as module
from ferry.registry.lock import PREFIX
from ferry.registry.register import register
from ferry.registry.stage import register_stage
from ferry.training.runs import download_model, experiment, open_run
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from .conftest import LABELS, SOURCE, TARGET, make_evaluation, make_model
from .names import BAD


class Failing:
    """An MLflow client of which one method fails."""

    def __init__(self, client, method: str, error: Exception) -> None:
        self._client, self._method, self._error = client, method, error

    def __getattr__(self, name):
        if name == self._method:
            return self._fail
        return getattr(self._client, name)

    def _fail(self, *_, **__):
        raise self._error


def aliases(uri, name="faces"):
    try:
        return {alias: str(version) for alias, version in MlflowClient(uri).get_registered_model(name).aliases.items()}
    except MlflowException:
        return {}


def test_on_a_cluster_a_version_says_where_its_files_lie_and_its_run_is_below_the_pipelines(
    model, evaluation, uri, tmp_path, monkeypatch
):
    import ferry.registry.register as module

    monkeypatch.setenv("FERRY_RUN_ID", "run-9")
    monkeypatch.setattr(module, "artifact_uri", lambda path: f"minio://mlpipeline/{Path(path).name}")
    (tmp_path / "report").write_text("<html></html>")
    made = register(model, evaluation, tmp_path / "report", "faces", tracking_uri=uri)
    tags = Registry(uri).versions("faces")[0].tags
    assert tags["ferry.model_uri"] == f"minio://mlpipeline/{Path(model).name}"
    assert tags["ferry.report_uri"] == "minio://mlpipeline/report"
    assert tags["ferry.run"] == "run-9"
    client = MlflowClient(uri)
    parent = client.get_run(client.get_run(made.run_id).data.tags["mlflow.parentRunId"])
    assert (parent.data.tags["ferry.run"], parent.info.status) == ("run-9", "FINISHED")


def test_a_registered_model_is_a_whole_version(model, evaluation, uri, tmp_path):
    report = tmp_path / "report"
    report.write_text("<html></html>")
    made = register(model, evaluation, report, "faces", tracking_uri=uri)
    assert (made.version, made.uri) == ("1", "models:/faces/1")
    registry = Registry(uri)
    version = registry.versions("faces")[0]
    info = load_info(model)
    assert version.aliases == ("challenger",)
    assert version.tags["ferry.method"] == "clup"
    assert version.tags["ferry.target_digest"] == TARGET
    assert version.tags["ferry.source_digest"] == SOURCE
    assert version.tags["ferry.model_digest"] == info.digest
    assert version.tags["ferry.verdict"] == "better"
    assert version.tags["ferry.card"] == "complete"
    assert version.tags["ferry.run"] == made.run_id
    assert f"labels={LABELS}" in version.tags["ferry.lineage"]
    seen = json.dumps({"labels": LABELS, "target": TARGET}, sort_keys=True, separators=(",", ":"))
    assert version.tags["ferry.data_digest"] == hashlib.sha256(seen.encode()).hexdigest()
    client = MlflowClient(uri)
    assert client.get_run(made.run_id).info.status == "FINISHED"
    description = client.get_model_version("faces", "1").description
    assert description.startswith("# Model card: faces, version 1\n")
    assert len(description) <= 5000
    assert registry.card("faces", "1").missing() == []
    files = {path.name: path for path in (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob("*")}
    assert {"MLmodel", "serving.py", "card.md", "card.json", "report.html", "input_example.json"} <= set(files)
    for path in files.values():
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".joblib")
        assert path.is_dir() or not is_pickle(path)
    text = files["MLmodel"].read_text()
    assert str(tmp_path) not in text
    assert str(Path(module.__file__).parent) not in text
    assert promoted_weights(registry, uri, model)


def promoted_weights(registry, uri, model) -> bool:
    registry.promote("faces", "challenger")
    folder = download_model("models:/faces@champion", uri)
    one, other = load_classifier(model).state_dict(), load_classifier(folder).state_dict()
    assert load_source(folder).digest == load_info(model).digest
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def is_pickle(path: Path) -> bool:
    data = path.read_bytes()
    if not data.startswith(b"\x80") or not data.endswith(b"."):
        return False
    try:
        list(pickletools.genops(data))
    except ValueError:
        return False
    return True


def test_the_next_version_takes_the_alias_over(model, evaluation, uri, quick, tmp_path):
    register(model, evaluation, None, "faces", tracking_uri=uri)
    second = register(make_model(tmp_path / "m2", seed=1), evaluation, None, "faces", tracking_uri=uri)
    assert second.version == "2"
    assert aliases(uri) == {"challenger": "2"}


def test_the_alias_moves_while_no_promotion_is_under_way(model, evaluation, uri, quick, monkeypatch):
    connect, flags = module.connect, []

    class Watching(Failing):
        def _fail(self, *given):
            flags.extend(tag for tag in self._client.get_registered_model("faces").tags if tag.startswith(PREFIX))
            self._client.set_registered_model_alias(*given)

    monkeypatch.setattr(
        module, "connect", lambda *given: Watching(connect(*given), "set_registered_model_alias", Exception())
    )
    register(model, evaluation, None, "faces", tracking_uri=uri)
    assert len(flags) == 1
    assert aliases(uri) == {"challenger": "1"}
    assert not any(tag.startswith(PREFIX) for tag in MlflowClient(uri).get_registered_model("faces").tags)


def test_during_a_promotion_a_registration_waits_and_can_be_repeated(model, evaluation, uri, quick, monkeypatch):
    run = open_run(uri, "clup", "run-1", {})
    client = MlflowClient(uri)
    client.create_registered_model("faces")
    client.set_registered_model_tag("faces", f"{PREFIX}other", f"{time.time():.0f}")
    monkeypatch.setattr(module, "alone", partial(module.alone, patience=0.1))
    with pytest.raises(RetryableError, match="Expected `faces` to be free"):
        register(model, evaluation, None, "faces", tracking_uri=uri, run_id=run)
    assert aliases(uri) == {}
    client.delete_registered_model_tag("faces", f"{PREFIX}other")
    assert register(model, evaluation, None, "faces", tracking_uri=uri, run_id=run).version == "1"
    assert aliases(uri) == {"challenger": "1"}


@pytest.mark.parametrize(
    "method",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("log_artifacts", "create_model_version")),
        pytest.param("update_model_version", marks=pytest.mark.slow),
        "set_registered_model_alias",
    ],
)
def test_a_registration_that_fails_half_way_moves_no_alias_and_can_be_repeated(
    model, evaluation, uri, quick, tmp_path, monkeypatch, method
):
    register(make_model(tmp_path / "before", seed=5), evaluation, None, "faces", tracking_uri=uri)
    run = open_run(uri, "clup", "run-1", {})
    connect = module.connect
    error = MlflowException("the server broke")  # INTERNAL_ERROR, as MLflow calls a lost connection
    monkeypatch.setattr(module, "connect", lambda *given: Failing(connect(*given), method, error))
    with pytest.raises(RetryableError, match="the server broke") as caught:
        register(model, evaluation, None, "faces", tracking_uri=uri, run_id=run)
    assert f"The model is kept in {model}" in str(caught.value)
    assert aliases(uri) == {"challenger": "1"}
    monkeypatch.setattr(module, "connect", connect)
    made = register(model, evaluation, None, "faces", tracking_uri=uri, run_id=run)
    assert aliases(uri) == {"challenger": "2"} == {"challenger": made.version}
    assert len(Registry(uri).versions("faces")) == 2
    assert download_model(made.uri, uri).is_dir()


def test_a_run_that_was_made_for_a_failed_registration_ends_as_failed(model, evaluation, uri, quick, monkeypatch):
    connect = module.connect
    monkeypatch.setattr(
        module, "connect", lambda *given: Failing(connect(*given), "log_artifacts", MlflowException("broke"))
    )
    with pytest.raises(RetryableError):
        register(model, evaluation, None, "faces", tracking_uri=uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ferry")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_another_evaluation_of_the_same_model_is_another_version(model, evaluation, uri, quick, tmp_path):
    run = open_run(uri, "clup", "run-1", {})
    for folder in (evaluation, evaluation, make_evaluation(tmp_path / "e2", seed=9)):
        register(model, folder, None, "faces", tracking_uri=uri, run_id=run)
    versions = Registry(uri).versions("faces")
    assert [version.version for version in versions] == ["2", "1"]
    assert Registry(uri).card("faces", "1").results != Registry(uri).card("faces", "2").results
    assert {version.tags["ferry.run"] for version in versions} == {"run-1"}


def test_the_data_digest_is_over_what_training_saw_and_nothing_else(evaluation, uri, quick, tmp_path):
    lineage = {"source": SOURCE, "target": TARGET, "labels": LABELS}
    given = {
        "first": lineage,
        "same": {**lineage, "source": "11" * 32},
        "labels": {**lineage, "labels": "22" * 32},
        "target": {**lineage, "target": "33" * 32},
        "swapped": {**lineage, "target": LABELS, "labels": TARGET},
        "faces": {"faces": TARGET},
        "nothing": {"source": SOURCE},
    }
    digests = {}
    for name, values in given.items():
        register(make_model(tmp_path / name, **values), evaluation, None, name, tracking_uri=uri)
        digests[name] = Registry(uri).versions(name)[0].tags.get("ferry.data_digest")
    assert digests["first"] == digests["same"]
    assert digests.pop("nothing") is None
    assert len(set(digests.values())) == len(digests) - 1


@pytest.mark.parametrize(
    ("variable", "run_tags", "found"),
    [
        ("", {}, None),  # the MLflow run itself
        ("", {"kfp.pipeline_run_id": "kfp-1"}, "kfp-1"),
        ("", {"kfp.pipeline_run_id": "kfp-1", "ferry.run": "ferry-1"}, "ferry-1"),
        ("variable-1", {"kfp.pipeline_run_id": "kfp-1", "ferry.run": "ferry-1"}, "variable-1"),
    ],
)
def test_the_pipeline_run_is_known_with_and_without_kubeflow(
    model, evaluation, uri, quick, monkeypatch, variable, run_tags, found
):
    monkeypatch.setenv("FERRY_RUN_ID", variable)
    client = MlflowClient(uri)
    run = client.create_run(experiment(client, uri), tags=run_tags).info.run_id
    register(model, evaluation, None, "faces", tracking_uri=uri, run_id=run, tags={"team": "faces"})
    tags = Registry(uri).versions("faces")[0].tags
    assert tags["ferry.run"] == (found or run)
    assert tags["team"] == "faces"
    assert tags["ferry.version"] == ferry.__version__


def test_the_variables_of_a_pipeline_are_followed(model, evaluation, uri, quick, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = open_run(uri, "clup", "run-1", {})
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    monkeypatch.setenv("FERRY_RUN_ID", "20260101-clup")
    record = StageRecord("register")
    register_stage(model, evaluation, evaluation / "metrics.json", "faces", record)
    assert record.facts["model"] == {"name": "faces", "version": "1", "uri": "models:/faces/1", "run_id": run}
    assert Registry().versions("faces")[0].tags["ferry.run"] == "20260101-clup"
    assert MlflowClient(uri).get_run(run).info.status == "RUNNING"


def test_without_a_name_nothing_is_registered(model, evaluation):
    record = StageRecord("register")
    register_stage(model, evaluation, evaluation / "metrics.json", "", record)
    assert record.warnings == ["No model name was given: nothing was registered."]


def test_a_card_without_a_target_is_registered_as_incomplete_and_not_promoted(evaluation, uri, quick, tmp_path):
    register(make_model(tmp_path / "m", source=SOURCE), evaluation, None, "faces", tracking_uri=uri)
    registry = Registry(uri)
    assert registry.versions("faces")[0].tags["ferry.card"] == "missing: data.adapted to"
    with pytest.raises(UserError, match=r"nothing under data\.adapted to"):
        registry.promote("faces", "1")


@pytest.mark.parametrize("name", [*BAD, ""])
def test_a_name_that_cannot_be_used_is_refused_before_anything_is_sent(model, evaluation, name):
    with pytest.raises(UserError, match="Expected `model_name` to be 1 to 256"):
        register(model, evaluation, None, name, tracking_uri="http://127.0.0.1:1")


def test_a_damaged_model_never_reaches_the_registry(model, evaluation, uri):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError):
        register(model, evaluation, None, "faces", tracking_uri=uri)
    assert aliases(uri) == {}


def test_no_tracking_server_at_all_is_an_error_and_not_a_store_in_the_current_folder(model, evaluation, uri, tmp_path):
    with pytest.raises(UserError, match="Expected `MLFLOW_TRACKING_URI` to be set"):
        register(model, evaluation, None, "faces")
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_server_that_is_away_is_a_reason_to_try_again_and_the_model_is_kept(
    model, evaluation, uri, kind, monkeypatch
):
    monkeypatch.setattr("ferry.training.runs._PROBE_SECONDS", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()  # accepts, and never answers
        before = {path.name: path.read_bytes() for path in model.iterdir()}
        with pytest.raises(RetryableError, match="server that answers") as caught:
            register(model, evaluation, None, "faces", tracking_uri=f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert caught.value.exit_code == 75
    assert f"The model is kept in {model}" in str(caught.value)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_the_room_is_imported_without_mlflow_torch_and_pandas():
    code = "import sys, ferry.registry.promotion, ferry.training.runs\nprint(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", f"import json\n{code}"], capture_output=True, text=True, check=True)
    assert not {"mlflow", "torch", "pandas"} & set(json.loads(found.stdout))
