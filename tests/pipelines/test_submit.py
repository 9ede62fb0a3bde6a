"""Runs in Kubeflow, against a double that knows exactly what KFP's API description knows."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from ferry.common.errors import RetryableError, UserError
from ferry.pipelines.catalogue import compile_pipeline, find
from ferry.pipelines.cluster.kubeflow import Address, Kubeflow

from .. import kubeflow

GIVEN = ["-p", "target=s3://faces/new", "-p", "source=models:/fer@champion"]


@pytest.fixture
def server(monkeypatch, tmp_path):
    for name in ("KF_PIPELINES_ENDPOINT", "FERRY_KFP_NAMESPACE", "FERRY_KFP_TOKEN", "FERRY_KFP_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with kubeflow.serving() as double:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", double.uri)
        yield double
        assert double.refused == []


def test_a_run_has_the_parameters_of_the_command_and_the_version_of_the_yaml(server, ferry):
    code, out, err = ferry(
        "submit", "clup", *GIVEN, "-p", "finetuning_epochs=3", "--service-account", "runner", "--json"
    )
    assert code == 0, err
    shown = json.loads(out)
    (run,) = server.runs.values()
    assert (shown["run"], shown["state"]) == (run["run_id"], "PENDING")
    values = run["runtime_config"]["parameters"]
    assert values["target"] == "s3://faces/new"
    assert (values["finetuning_epochs"], values["source_trust"], values["target_max_skipped"]) == (3, False, 0.05)
    assert run["service_account"] == "runner"
    version = server.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"] == shown["uploaded"]["name"]
    assert compile_pipeline(find("clup")).encode() in version["upload"]
    (pipeline,) = server.pipelines.values()
    assert pipeline["display_name"] == "ferry-clup"
    (experiment,) = server.experiments.values()
    assert (experiment["display_name"], run["experiment_id"]) == ("ferry", experiment["experiment_id"])


@pytest.mark.slow
def test_the_same_content_is_uploaded_once_and_another_one_is_another_version(server, ferry, tmp_path):
    for _ in range(2):
        assert ferry("submit", "adabn", *GIVEN)[0] == 0
    uploads = [name for name in server.asked if name.startswith("upload")]
    assert uploads == ["upload_pipeline", "upload_pipeline_version"]
    for cpu in range(1, 3):  # more versions than the double has on a page
        (tmp_path / "profile.yaml").write_text(f"default: {{cpu: {cpu}}}")
        assert ferry("submit", "adabn", "--profile", tmp_path / "profile.yaml", *GIVEN)[0] == 0
    (tmp_path / "profile.yaml").write_text("default: {cpu: 1}")
    code, _, err = ferry("submit", "adabn", "--profile", tmp_path / "profile.yaml", *GIVEN)
    assert code == 0
    assert "(uploaded)" not in err
    assert len([name for name in server.asked if name.startswith("upload")]) == 4
    assert len(server.runs) == 5
    assert len(server.experiments) == len(server.pipelines) == 1


def test_what_is_uploaded_is_what_kubeflow_reads(server, ferry):
    assert ferry("submit", "source", "-p", "faces=s3://faces/labelled")[0] == 0
    upload = next(iter(server.versions.values()))["upload"].decode()
    text = upload.split("\r\n\r\n", 1)[1].rsplit("\r\n--", 1)[0]
    assert next(yaml.safe_load_all(text))["pipelineInfo"]["name"] == "source"


@pytest.mark.parametrize(("states", "code"), [(["PENDING", "RUNNING", "SUCCEEDED"], 0), (["RUNNING", "FAILED"], 1)])
def test_waiting_ends_with_the_run_and_says_its_stages(server, ferry, monkeypatch, states, code):
    monkeypatch.setattr("ferry.pipelines.cluster.kubeflow.Kubeflow.wait.__defaults__", (0.01,))
    server.states, server.tasks = states, ["import-target"]
    server.error = "task pretrain failed" if code else ""
    found, out, err = ferry("submit", "clup", *GIVEN, "--wait")
    assert found == code
    assert f"import-target: {states[-1].lower()}" in err
    assert f", {states[-1].lower()}" in out
    assert ("task pretrain failed" in err) == bool(code)


def test_a_server_that_is_away_for_a_moment_does_not_end_the_waiting(server):
    client = Kubeflow(Address(server.uri))
    run = client.submit(client.upload("p", compile_pipeline(find("adabn"))), "p", {})
    server.fail["run_service_get_run"] = 503
    threading.Timer(0.3, server.fail.clear).start()
    assert client.wait(run, print, poll=0.05).state == "SUCCEEDED"
    server.fail["run_service_get_run"] = 401
    with pytest.raises(UserError, match="FERRY_KFP_TOKEN"):
        client.wait(run, print, poll=0.05)


def test_a_token_is_sent_and_never_shown(server, ferry, monkeypatch):
    server.token = "very-secret"
    code, out, err = ferry("submit", "adabn", *GIVEN)
    assert code == 2
    assert "Expected `FERRY_KFP_TOKEN` to be a token with the right to do this, but got 'HTTP status 401'" in err
    monkeypatch.setenv("FERRY_KFP_TOKEN", "very-secret")
    code, out, err = ferry("submit", "adabn", *GIVEN)
    assert code == 0
    assert "very-secret" not in out + err + repr(Address.from_environment())


def test_a_namespace_is_that_of_experiment_and_pipeline(server, ferry):
    assert ferry("submit", "adabn", *GIVEN, "--namespace", "team")[0] == 0
    (experiment,) = server.experiments.values()
    assert experiment["namespace"] == "team"
    assert [pipeline["namespace"] for pipeline in server.pipelines.values()] == ["team"]


@pytest.mark.parametrize(
    ("operation", "status", "code", "says"),
    [
        ("upload_pipeline", 400, 2, "accepts this"),
        ("upload_pipeline", 403, 2, "`FERRY_KFP_TOKEN`"),
        ("upload_pipeline", 500, 75, "HTTP status 500: as the test wants."),
        ("run_service_create_run", 429, 75, "HTTP status 429"),
        ("run_service_create_run", 404, 2, "`endpoint`"),
        ("healthz_service_get_healthz", 503, 75, "HTTP status 503"),
    ],
)
def test_what_the_server_answers_tells_whether_a_retry_can_help(server, ferry, operation, status, code, says):
    server.fail[operation] = status
    found, out, err = ferry("submit", "adabn", *GIVEN)
    assert (found, out) == (code, "")
    assert says in err
    assert "Traceback" not in err
    assert "stack" not in err


def test_nothing_is_asked_of_the_server_for_wrong_values(server, ferry):
    for words, says in (
        (["clup", "-p", "target=faces", "-p", "source=models:/a@b"], "`target` to be an address that pods can reach"),
        (["clup", "-p", "target=s3://a/b", "-p", "source=model"], "`source` to be an address that pods can reach"),
        (["clup", *GIVEN, "-p", "finetuning_epoch=1"], "Did you mean 'finetuning_epochs'"),
        (["clup", *GIVEN, "--profile", "absent.yaml"], "`profile` to be a file"),
        (["clup", *GIVEN, "-p", "pretraining=swva"], "Did you mean 'swav'"),
        (["adabn", *GIVEN, "-p", "target_layout=rafbd"], "Did you mean 'rafdb'"),
        (["clap", *GIVEN], "Did you mean 'clup'"),
    ):
        code, _, err = ferry("submit", *words)
        assert code == 2
        assert says in err
    assert server.asked == []


@pytest.mark.parametrize("command", [["submit"], ["schedule", "--cron", "0 3 * * *"]], ids=lambda words: words[0])
def test_a_server_that_is_too_old_for_the_words_of_parameters_gets_the_pipeline_without(
    server, ferry, monkeypatch, command
):
    upload = server.upload_pipeline

    def old(**given):
        if b"literals:" in given["upload"]:
            raise LookupError('Failed to create: invalid v2 pipeline spec: proto: (line 1:9): unknown field "literals"')
        return upload(**given)

    monkeypatch.setattr(server, "upload_pipeline", old)
    code, _, err = ferry(*command, "clup", *GIVEN)
    assert code == 2
    assert "Expected `endpoint` to be Kubeflow Pipelines 2.16 or newer" in err
    assert "Pass --no-choices" in err
    assert ferry(*command, "clup", *GIVEN, "--no-choices")[0] == 0
    (version, _) = server.versions.values()
    assert compile_pipeline(find("clup"), choices=False).encode() in version["upload"]


def test_a_server_that_is_away_or_silent_is_known_soon(server, ferry, monkeypatch):
    code, _, err = ferry("submit", "adabn", *GIVEN, "--endpoint", "http://127.0.0.1:9")
    assert code == 75
    assert "Expected `endpoint` to answer" in err
    monkeypatch.setattr("ferry.pipelines.cluster.kubeflow._FIRST_WAIT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        code, _, err = ferry("submit", "adabn", *GIVEN, "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert (code, time.monotonic() - began < 30) == (75, True)


def test_without_an_address_a_cluster_must_be_known(server, ferry, monkeypatch, tmp_path):
    for name in ("KF_PIPELINES_ENDPOINT", "KUBERNETES_SERVICE_HOST", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = ferry("submit", "adabn", *GIVEN)
    assert code == 2
    assert "Expected `endpoint` to be given outside a cluster and without a kubeconfig" in err
    (tmp_path / "config").write_text("{}")
    monkeypatch.setenv("KUBECONFIG", f"/absent{os.pathsep}{tmp_path / 'config'}")
    code, _, err = ferry("submit", "adabn", *GIVEN)
    assert code == 75
    assert "of this pod or of the current kubeconfig" in err


class _Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>log in</html>")

    def log_message(self, *_):
        pass


def test_a_login_page_and_a_word_that_is_no_url_are_no_kubeflow(server, ferry):
    with HTTPServer(("127.0.0.1", 0), _Page) as page:
        threading.Thread(target=page.serve_forever, args=(0.05,), daemon=True).start()
        code, _, err = ferry("submit", "adabn", *GIVEN, "--endpoint", f"http://127.0.0.1:{page.server_port}")
        page.shutdown()
    assert code == 2
    assert "a login page answered" in err
    code, _, err = ferry("submit", "adabn", *GIVEN, "--endpoint", "kubeflow.example.org")
    assert code == 2
    assert "`endpoint` to be a URL" in err


def test_the_double_refuses_what_the_description_does_not_know():
    known = {route.name: route for route in kubeflow.routes()}
    assert len(known) > 30
    assert known["run_service_create_run"].body == "V2beta1Run"
    assert "page_token" in known["pipeline_service_list_pipeline_versions"].query
    kubeflow.check("V2beta1Run", {"runtime_config": {"parameters": {"any": 1}}}, "run")
    with pytest.raises(ValueError, match="V2beta1RuntimeConfig has no field parameter"):
        kubeflow.check("V2beta1Run", {"runtime_config": {"parameter": {}}}, "run")


def test_an_unknown_certificate_file_is_refused(monkeypatch):
    monkeypatch.setenv("FERRY_KFP_CA", "/absent.pem")
    with pytest.raises(UserError, match="`FERRY_KFP_CA` to be an existing PEM file"):
        Address.from_environment("https://kubeflow.example.org")
    with pytest.raises(RetryableError, match="`endpoint` to answer"):
        Kubeflow(Address("http://127.0.0.1:9"))


# --- Schedules ------------------------------------------------------------------------------------------------------


def test_a_schedule_runs_one_at_a_time_and_makes_up_for_nothing(server, ferry):
    code, out, err = ferry("schedule", "clup", "--cron", "0 3 * * *", "--name", "nightly", *GIVEN, "--json")
    assert code == 0, err
    (made,) = server.schedules.values()
    assert json.loads(out)["id"] == made["recurring_run_id"]
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (made["no_catchup"], int(made["max_concurrency"]), made["mode"]) == (True, 1, "ENABLE")
    assert made["runtime_config"]["parameters"]["source"] == "models:/fer@champion"
    assert made["pipeline_version_reference"]["pipeline_version_id"] in server.versions
    assert server.runs == {}


def test_a_schedule_of_the_same_name_is_replaced_and_others_stay(server, ferry):
    for name in ("a", "nightly", "b", "c"):  # more than the double has on a page
        assert ferry("schedule", "adabn", "--cron", "0 3 * * *", "--name", name, *GIVEN)[0] == 0
    code, out, _ = ferry("schedule", "adabn", "--cron", "5 0 4 * * 1-5", "--name", "nightly", *GIVEN)
    assert (code, out) == (0, "Schedule: nightly, 5 0 4 * * 1-5, in place of the one before\n")
    found = json.loads(ferry("schedules", "list", "--json")[1])
    assert [one["name"] for one in found] == ["a", "b", "c", "nightly"]
    assert [one["cron"] for one in found if one["name"] == "nightly"] == ["5 0 4 * * 1-5"]
    last = [name for name in server.asked if name.startswith("recurring_run_service") and "list" not in name][-2:]
    assert last == ["recurring_run_service_create_recurring_run", "recurring_run_service_delete_recurring_run"]


def test_the_schedule_before_stays_where_the_new_one_is_refused(server, ferry):
    assert ferry("schedule", "adabn", "--cron", "0 3 * * *", *GIVEN)[0] == 0
    server.fail["recurring_run_service_create_recurring_run"] = 500
    assert ferry("schedule", "adabn", "--cron", "0 4 * * *", *GIVEN)[0] == 75
    assert [one["trigger"]["cron_schedule"]["cron"] for one in server.schedules.values()] == ["0 0 3 * * *"]


def test_schedules_are_paused_resumed_and_deleted_by_name(server, ferry):
    assert "No schedules" in ferry("schedules", "list")[2]
    assert ferry("schedule", "adabn", "--cron", "0 3 * * *", "--name", "nightly", *GIVEN)[0] == 0
    assert ferry("schedules", "pause", "nightly")[0] == 0
    assert "paused" in ferry("schedules", "list")[1]
    assert ferry("schedules", "resume", "nightly")[0] == 0
    assert "active" in ferry("schedules", "list")[1]
    code, _, err = ferry("schedules", "delete", "nigthly")
    assert (code, "Did you mean 'nightly'" in err) == (2, True)
    assert len(server.schedules) == 1
    assert ferry("schedules", "delete", "nightly")[0] == 0
    assert server.schedules == {}
    assert "to be one of none" in ferry("schedules", "pause", "nightly")[2]


@pytest.mark.parametrize("cron", ["", "3 * * *", "0 0 0 3 * * *", "@daily", "0 3 * * ;", "0 3 * * $(x)"])
def test_what_is_no_cron_is_refused_before_anything_is_asked(server, ferry, cron):
    code, _, err = ferry("schedule", "adabn", "--cron", cron, *GIVEN)
    assert code == 2
    assert "Expected `cron` to be five fields" in err
    assert server.asked == []


def test_a_name_that_cannot_be_one_is_refused(server, ferry):
    code, _, err = ferry("schedule", "adabn", "--cron", "0 3 * * *", "--name", "Every night", *GIVEN)
    assert (code, "`name` to be lower-case letters" in err) == (2, True)
    assert server.schedules == {}
