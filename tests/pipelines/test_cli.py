"""The command in this process; exit codes, messages, and what is on which stream."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ferry.pipelines.cli import run as run_module
from ferry.pipelines.runner import Home, RunFailed, RunRecord, RunResult, TaskRecord

COMMANDS = [
    (),
    ("demo",),
    ("run",),
    ("parameters",),
    ("compile",),
    ("runs",),
    ("predict",),
    ("serve",),
    ("models",),
    ("promote",),
    ("rollback",),
    ("push",),
    ("sync",),
    ("submit",),
    ("schedule",),
    ("schedules",),
    ("schedules", "list"),
    ("schedules", "pause"),
    ("schedules", "resume"),
    ("schedules", "delete"),
    ("doctor",),
    ("faces",),
    ("faces", "import"),
    ("faces", "push"),
    ("faces", "show"),
    ("faces", "render"),
    ("faces", "layouts"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: "-".join(words) or "ferry")
def test_every_help_has_an_example(ferry, words):
    code, out, _ = ferry(*words, "--help")
    assert code == 0
    assert "Example: ferry " in out
    assert "Usage: ferry" in out


def test_the_list_of_commands_above_is_whole(ferry):
    from ferry.pipelines.cli.app import app

    groups = {info.name: info.typer_instance for info in app.registered_groups}
    found = {(info.name,) for info in app.registered_commands} | {(name,) for name in groups}
    found |= {(name, info.name) for name, group in groups.items() for info in group.registered_commands}
    assert found == set(COMMANDS) - {()}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("rnu",), "Did you mean 'run'?"),
        (("faces", "imprt"), "Did you mean 'import'?"),
        (("run", "clup", "--sed", "1"), "--seed"),
        (("run", "sorce"), "Did you mean 'source'?"),
        (("run", "clup", "-p", "tagret=x"), "Did you mean 'target'?"),
        (("run", "clup", "-p", "target"), "Expected `--parameter` to be KEY=VALUE"),
        (("run", "clup", "-p", "seed=1", "-p", "seed=2"), "Expected `seed` to be given once"),
        (("run", "clup", "-p", "seed=1", "--seed", "2"), "Expected `seed` to be given once"),
        (("run", "source"), "Expected `faces` to be given"),
        (("run", "clup"), "Expected `target`, `source` to be given, but got 'nothing'. Pass -p target=VALUE: "),
        (("run", "clup"), "; -p source=VALUE: "),
        (("run", "clup", "target=faces/target"), "Expected `--parameter` to be given as -p KEY=VALUE"),
        (("run", "clup", "target=faces/target"), "Write -p target=faces/target; see: ferry parameters clup"),
        (("run", "clup", "-p", "seed=1", "faces"), "Write -p KEY=faces; see"),
        (("run", "source", "-p", "faces=nowhere"), "Expected `faces` to be an existing path"),
        (("run", "source", "-p", "faces=.", "--seed", "x"), "--seed"),
        (("compile", "clpu", "-o", "x.yaml"), "Did you mean 'clup'?"),
        (("serve", "nowhere", "--port", "0"), "Expected `MODEL` to be an existing file or folder, but got 'nowhere'."),
        (("serve", "folder", "--port", "0"), "to be a source model, but got 'an empty folder'"),
        (("serve", "folder", "--port", "70000"), "Expected `--port` to be from 0 to 65535, but got 70000."),
        (("serve", "folder", "--max-waiting", "-1"), "Expected `--max-waiting` to be at least 0, but got -1."),
        (("serve", "folder", "--name", "a/b"), "Expected `--name` to be printable, without / and :, but got 'a/b'."),
        (("serve", "folder", "--host", "no.such.host.invalid"), "Expected `--host` to be an address of this machine"),
        (("faces", "import", "nowhere", "-o", "x"), "nowhere"),
        (("faces", "show", "nowhere"), "nowhere"),
        (("faces", "render", "10", "--style", "lines", "-o", "x"), "Did you mean 'line'?"),
        (("faces", "render", "10", "--holdout", "1", "-o", "x"), "Expected `--holdout` to be"),
        (("faces", "render", "0", "-o", "x"), "Expected `COUNT` to be at least 1, but got 0."),
        (("faces", "import", ".", "-o", "x", "--option", "a"), "Expected `--option` to be KEY=VALUE, but got 'a'"),
        (("compile", "source", "-o", "folder"), "Expected `folder` to be a usable path, but got 'Is a directory'."),
        (("compile", "source", "-o", "file/x.yaml"), "Expected `file` to be a usable path, but got 'File exists'."),
        (("runs", "--home", "file/home"), "to be a usable path, but got 'Not a directory'. Check the path."),
        (("compile", "source", "-o", "/proc/x.yaml"), "Expected `/proc/x.yaml` to be a usable path"),
        (("compile", "source", "-o", 300 * "x"), "to be a usable path, but got 'File name too long'. Check the path."),
    ],
)
def test_wrong_input_ends_with_code_2_a_sentence_and_no_traceback(ferry, words, shown):
    Path("file").touch()
    Path("folder").mkdir()
    code, out, err = ferry(*words)
    assert code == 2
    assert shown in err
    assert "Traceback" not in err
    assert out == ""


def test_a_start_of_the_command_imports_nothing_heavy():
    code = (
        "import sys, ferry, ferry.pipelines.cli.app, ferry.pipelines.runner\n"
        "heavy = {'torch', 'torchvision', 'kfp', 'mlflow', 'numpy', 'pandas', 'sklearn', 'starlette', 'uvicorn'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_version(ferry):
    import ferry as package

    assert ferry("--version")[:2] == (0, f"{package.__version__}\n")


def test_parameters_are_shown_without_marks(ferry):
    code, out, _ = ferry("parameters", "clup")
    assert code == 0
    assert "target_layout" in out
    assert "[optional]" not in out
    found = json.loads(ferry("parameters", "clup", "--json")[1])
    assert found["seed"] == {"type": "int", "default": 0, "description": "Fixes the run."}
    assert found["target"]["default"] is None
    assert found["pretraining"]["choices"] == ["swav", "deepcluster", "none"]


def test_compile_writes_the_yaml_and_nothing_to_standard_output(ferry, tmp_path):
    from ferry import compile_pipeline

    code, out, _ = ferry("compile", "source", "-o", tmp_path / "deep" / "source.yaml")
    assert (code, out) == (0, "")
    assert (tmp_path / "deep" / "source.yaml").read_text() == compile_pipeline("source")
    assert ferry("compile", "source", "--no-choices", "-o", tmp_path / "old.yaml")[0] == 0
    assert (tmp_path / "old.yaml").read_text() == compile_pipeline("source", choices=False)


def a_record(**changes) -> RunRecord:
    row = {"accuracy": 0.5, "mean_class_accuracy": 0.25, "min_class_accuracy": None, "n": 1200}
    record = RunRecord("20260101-000000-clup", "clup", {"seed": 1}, 1, "done", "2026-01-01T00:00:00+00:00", 62.0)
    record.metrics = {"adapted": row, "source": row}
    record.model = {"name": "m", "version": "3", "uri": "models:/m/3"}
    record.overhead_seconds = 9.5
    record.mlflow = {"tracking_uri": "sqlite:////a home/mlflow.db", "run_id": "1"}
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def test_runs_lists_newest_first_and_leaves_damaged_ones_out(ferry, home):
    a_record().write(home.new_run("clup"))
    newer = home.runs / "30260101-000000-clup"
    newer.mkdir()
    a_record(id=newer.name, status="failed", metrics={}, model={}).write(newer)
    damaged = home.new_run("clup")
    (damaged / "run.json").write_text("{")
    code, out, err = ferry("runs", "--home", home.root, "--json")
    assert code == 0
    assert [(run["id"], run["status"]) for run in json.loads(out)] == [
        (newer.name, "failed"),
        ("20260101-000000-clup", "done"),
    ]
    assert "is left out" in err
    code, out, _ = ferry("runs", "--home", home.root)
    assert "25.0 -> 25.0 %" in out
    assert "62 s" in out


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (("runs",), 0, "No runs in HOME."),
        (("models",), 0, "No model is registered yet in sqlite:///"),
        (("doctor", "--json"), 0, "HOME, "),
        (("promote", "3"), 2, "Expected `home` to be one with registered models, but got 'HOME'."),
        (("rollback",), 2, "Expected `home` to be one with registered models, but got 'HOME'."),
        (("predict", "models:/m@champion", "face.png"), 2, "Expected `home` to be one with registered models"),
        (("serve", "models:/m@champion", "--port", "0"), 2, "Expected `home` to be one with registered models"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("there", [False, True])
def test_what_only_reads_makes_nothing_in_a_place_that_is_no_home(ferry, tmp_path, words, code, shown, there):
    place = tmp_path / "nowhere"
    if there:
        (place / "tmp").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    found, out, err = ferry(*words, "--home", place)
    assert found == code
    assert shown.replace("HOME", str(place)) in out + err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_home_that_cannot_be_written_is_listed_as_it_is_and_doctor_says_so(ferry, home, monkeypatch):
    folder = home.new_run("clup")
    a_record(id=folder.name, status="running", mlflow={}).write(folder)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more))
    code, out, _ = ferry("runs", "--home", home.root, "--json")
    assert (code, json.loads(out)[0]["status"]) == (0, "running")
    assert not (home.root / "lock").exists()
    code, out, _ = ferry("doctor", "--home", home.root, "--json")
    check = next(check for check in json.loads(out) if check["check"] == "home")
    assert (code, check["status"]) == (75, "error")
    assert "not writable" in check["found"]


def test_runs_completes_the_record_of_a_killed_run_but_not_of_one_at_work(ferry, home):
    folder = home.new_run("clup")
    a_record(id=folder.name, status="running", mlflow={}).write(folder)
    with home.lock():
        assert json.loads(ferry("runs", "--home", home.root, "--json")[1])[0]["status"] == "running"
    assert json.loads(ferry("runs", "--home", home.root, "--json")[1])[0]["status"] == "killed"


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Lets `ferry run` end at once, with a record of the test's choice."""
    from ferry.pipelines import runner

    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "faces").mkdir()

    def pretend(record, error=None):
        record.write(folder)

        def run_local(pipeline, values, home, *, say=None, on="local"):
            say("a line for people")
            if error is not None:
                raise error
            return RunResult(folder, record)

        monkeypatch.setattr(runner, "run_local", run_local)

    return pretend


def test_run_shows_numbers_in_order_and_a_command_that_can_be_copied(ferry, pretended, home):
    names = {"source": "source-only", "adapted": "CluP"}
    pretended(a_record(tasks=[TaskRecord("pretrain", "done"), TaskRecord("evaluate", "done", facts={"names": names})]))
    code, out, err = ferry("run", "source", "-p", "faces=faces", "--home", home.root)
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("source-only", "CluP")] == ["source-only", "CluP"]
    assert "adapted" not in out
    assert "1,200" in out
    assert "Time:    1 min 2 s, of which 9.5 s starting stages and handing over" in out
    assert "a line for people" in err
    command = next(line.split(":", 1)[1].strip() for line in out.splitlines() if line.startswith("MLflow:"))
    words = shlex.split(command)
    assert words[1:] == ["ui", "--backend-store-uri", "sqlite:////a home/mlflow.db"]


def test_what_to_do_next_can_be_copied(tmp_path):
    from ferry.pipelines.cli.run import next_commands

    model = {"name": "ferry-demo", "version": "3", "uri": "models:/ferry-demo/3"}
    predict, promote = (shlex.split(line)[1:] for line in next_commands(a_record(model=model), tmp_path / "a home"))
    assert predict == ["predict", "models:/ferry-demo/3", "PICTURE", "--home", str(tmp_path / "a home")]
    assert promote == ["promote", "3", "--name", "ferry-demo", "--home", str(tmp_path / "a home")]
    assert next_commands(a_record(model=None), tmp_path) == []


def test_the_model_is_copied_to_a_new_folder_or_over_an_older_model_and_never_over_anything_else(
    ferry, pretended, home, tmp_path
):
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.json").write_text("new")
    pretended(a_record(tasks=[TaskRecord("train-source", "done", artifacts={"model": str(made)})]))
    words = ("run", "source", "-p", "faces=faces", "--home", home.root, "-o")
    for _ in range(2):
        code, out, _ = ferry(*words, tmp_path / "deep" / "model")
        assert (code, (tmp_path / "deep" / "model" / "model.json").read_text()) == (0, "new")
        assert f"Copy:    {tmp_path / 'deep' / 'model'}" in out
        (tmp_path / "deep" / "model" / "model.json").write_text("old")
    (tmp_path / "precious").mkdir()
    for place in (tmp_path / "precious", tmp_path / "precious" / "thesis.txt"):
        (tmp_path / "precious" / "thesis.txt").write_text("years of work")
        code, out, err = ferry(*words, place)
        assert (code, out) == (2, "")
        assert "Expected `--output` to be a new folder or that of a model" in err
        assert "a line for people" not in err, "refused before the run"
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("place", "refusal", "shown"),
    [
        (
            "/proc/deep/model",
            None,
            "Expected `--output` to be in a folder that can be written",
        ),
        ("file/model", None, "file: Not a directory. Choose another folder."),
        ("deep/model", errno.EACCES, "Expected `deep/model` to be writable, but got 'Permission denied'."),
    ],
)
def test_a_place_for_the_model_that_cannot_be_written_is_refused_before_the_run(
    ferry, pretended, home, monkeypatch, place, refusal, shown
):
    pretended(a_record())
    Path("file").touch()
    if refusal:

        def refuse(**_):
            raise OSError(refusal, os.strerror(refusal))

        monkeypatch.setattr(run_module.tempfile, "TemporaryDirectory", refuse)
    code, out, err = ferry("run", "source", "-p", "faces=faces", "--home", home.root, "-o", place)
    assert (code, out) == (2, "")
    assert shown in err
    assert "a line for people" not in err
    assert not Path("deep").exists()


def test_without_a_registry_the_path_of_the_run_s_own_model_is_shown_and_without_a_holdout_no_numbers(
    ferry, pretended, home
):
    names = ("import-model", "re-estimate-statistics", "fine-tune", "register")
    tasks = [
        TaskRecord(name, "done", artifacts={"model": f"/run/{name}"} if name != "register" else {}) for name in names
    ]
    unknown = {"accuracy": None, "mean_class_accuracy": None, "min_class_accuracy": None, "n": 0}
    pretended(a_record(model={}, tasks=tasks, metrics={"source": unknown, "adapted": unknown}))
    out = ferry("run", "source", "-p", "faces=faces", "--home", home.root)[1]
    assert [line for line in out.splitlines() if line.startswith("Model:")] == ["Model:   /run/fine-tune"]
    assert "accuracy" not in out


def test_numbers_are_aligned_to_the_right(ferry, pretended, home):
    record = a_record()
    record.metrics["source"] = {**record.metrics["source"], "accuracy": 0.05}
    pretended(record)
    out = ferry("run", "source", "-p", "faces=faces", "--home", home.root)[1]
    ends = {line.index(" %") for line in out.splitlines() if line.strip().startswith(("source", "adapted"))}
    assert len(ends) == 1


def test_run_prints_nothing_but_json_on_request_also_when_it_fails(ferry, pretended, home, tmp_path):
    words = ("run", "source", "-p", "faces=faces", "--home", home.root, "--json")
    pretended(a_record())
    code, out, _ = ferry(*words)
    assert (code, json.loads(out)["status"]) == (0, "done")
    failed = a_record(status="failed", error="Stage x: no.")
    pretended(failed, RunFailed("Stage x: no.\nLog: log.txt", 75, tmp_path / "run"))
    code, out, err = ferry(*words)
    assert (code, json.loads(out)["status"]) == (75, "failed")
    assert "ferry: Stage x: no.\nLog: log.txt" in err


@pytest.mark.parametrize("on_path", [True, False])
def test_the_command_of_mlflow_names_the_program_where_the_shell_would_not_find_it(monkeypatch, tmp_path, on_path):
    (tmp_path / "my env").mkdir()
    program = tmp_path / "my env" / "mlflow"
    program.touch()
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    monkeypatch.setattr(run_module.shutil, "which", lambda name: "/usr/bin/mlflow" if on_path else None)
    words = shlex.split(run_module.mlflow_command("sqlite:////x/y.db"))
    assert words == ["mlflow" if on_path else str(program), "ui", "--backend-store-uri", "sqlite:////x/y.db"]


def test_faces_are_rendered_shown_and_imported(ferry, tmp_path):
    code, out, _ = ferry("faces", "render", 28, "--style", "line", "-o", tmp_path / "line", "--size", 24, "--json")
    assert code == 0
    assert json.loads(out)["root"] == str(tmp_path / "line")
    code, out, _ = ferry("faces", "show", tmp_path / "line", "--sheet", tmp_path / "sheet.png", "--json")
    assert code == 0
    assert json.loads(out)["sheet"] == str(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = ferry("faces", "show", tmp_path / "line", "--sheet", tmp_path / "sheet.png")
    assert re.search(r"^  happiness +\d+ +\d+\.\d%$", out, re.MULTILINE)
    code, out, _ = ferry("faces", "import", tmp_path / "line", "-o", tmp_path / "again", "--labels", "drop", "--json")
    assert code == 0
    assert sum(json.loads(out)["images"].values()) == 28
    code, out, _ = ferry("faces", "import", tmp_path / "line", "-o", tmp_path / "third")
    assert "Faces:" in out
    assert ferry("faces", "render", 28, "-o", tmp_path / "line")[0] == 2, "an existing folder is not replaced unasked"


def test_faces_without_labels_are_counted_without_a_table(ferry, tmp_path):
    assert ferry("faces", "render", 14, "-o", "line", "--size", 24)[0] == 0
    code, out, _ = ferry("faces", "import", "line", "-o", "unlabelled", "--labels", "drop")
    assert code == 0
    assert re.search(r"^train: \d+ faces, without labels$", out, re.MULTILINE)
    assert "class" not in out
    assert "class" in ferry("faces", "import", "line", "-o", "labelled")[1]


def test_the_contact_sheet_is_left_out_where_nobody_named_a_place_and_this_folder_is_not_writable(ferry, monkeypatch):
    assert ferry("faces", "render", 14, "-o", "line", "--size", 24)[0] == 0
    assert "DIR-sheet.png" in ferry("faces", "show", "--help")[1]
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: mode != os.W_OK and access(path, mode, **more))
    code, out, err = ferry("faces", "show", "line")
    assert code == 0
    assert "happiness" in out
    assert "Contact sheet" not in out
    assert "note: no contact sheet, as " in err
    assert not Path("line-sheet.png").exists()
    assert json.loads(ferry("faces", "show", "line", "--json")[1])["sheet"] is None


def test_layouts_are_listed(ferry):
    found = json.loads(ferry("faces", "layouts", "--json")[1])
    assert {"fer2013", "rafdb", "sfew"} <= set(found)
    assert all(found.values())
    assert found["sfew"].startswith("SFEW 2.0")
    assert not [text for text in found.values() if "\n" in text or text.endswith(".") or ". " in text]
    assert "fer2013" in ferry("faces", "layouts")[1]


def test_doctor_says_what_was_found_and_fails_where_mlflow_is_away(ferry, home, monkeypatch):
    code, out, _ = ferry("doctor", "--home", home.root, "--json")
    checks = {check["check"]: check for check in json.loads(out)}
    assert code == 0
    assert {"python", "torch", "kfp", "device", "threads", "home", "MLflow", "S3"} <= set(checks)
    assert all(set(check) == {"check", "found", "status", "advice"} for check in checks.values())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, out, _ = ferry("doctor", "--home", home.root)
    assert code == 75
    assert "FAIL" in out


@pytest.fixture
def store():
    """An S3 server on this machine that has the bucket `faces`."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            there = self.path.startswith("/faces?")
            listing = "<ListBucketResult><Name>faces</Name><IsTruncated>false</IsTruncated></ListBucketResult>"
            body = (listing if there else "<Error><Code>NoSuchBucket</Code></Error>").encode()
            self.send_response(200 if there else 404)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("variables", "status", "found", "advice"),
    [
        ({}, "ok", "not configured", "Set S3_ENDPOINT"),
        ({"S3_ENDPOINT": "STORE"}, "warning", "configured, not checked", "Set S3_BUCKET"),
        ({"AWS_ENDPOINT_URL_S3": "STORE"}, "warning", "configured, not checked", "Set S3_BUCKET"),
        ({"S3_ENDPOINT": "STORE", "S3_BUCKET": "faces"}, "ok", "bucket faces is reachable", ""),
        ({"AWS_ENDPOINT_URL_S3": "STORE", "S3_BUCKET": "faces"}, "ok", "bucket faces is reachable", ""),
        ({"S3_ENDPOINT": "STORE", "S3_BUCKET": "none"}, "error", "to be an existing bucket", "Check S3_ENDPOINT"),
        (
            {"MINIO_ENDPOINT": "http://127.0.0.1:9", "S3_BUCKET": "faces"},
            "error",
            "`MINIO_ENDPOINT` to be",
            "S3_SECURE",
        ),
        ({"S3_ENDPOINT": "STORE", "S3_BUCKET": "faces", "S3_SECRET_KEY": ""}, "error", "`S3_SECRET_KEY` to be set", ""),
    ],
)
def test_doctor_asks_the_store_that_the_environment_names(
    ferry, home, monkeypatch, store, variables, status, found, advice
):
    given = {"S3_ACCESS_KEY": "key", "S3_SECRET_KEY": "do-not-print-this", "S3_REGION": "us-east-1", **variables}
    for name, value in given.items() if variables else ():
        monkeypatch.setenv(name, value.replace("STORE", store))
    code, out, err = ferry("doctor", "--home", home.root, "--json")
    check = next(check for check in json.loads(out) if check["check"] == "S3")
    assert check["status"] == status
    assert found in check["found"]
    assert advice in check["advice"]
    assert code == (75 if status == "error" else 0)
    assert "do-not-print-this" not in out + err


def test_ctrl_c_ends_with_75_and_a_word(ferry, monkeypatch):
    from ferry.pipelines import catalogue

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "find", interrupted)
    code, _, err = ferry("run", "clup")
    assert code == 75
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 75, "Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "Expected `/x/y` to be accessible"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 75, "but got 'Connection reset by peer'"),
        (TimeoutError(), 75, "but got 'TimeoutError'"),
    ],
)
def test_what_the_system_refuses_is_a_sentence_too(ferry, monkeypatch, error, code, shown):
    from ferry.pipelines import catalogue

    def refuse(name):
        raise error

    monkeypatch.setattr(catalogue, "find", refuse)
    found, _, err = ferry("parameters", "clup")
    assert found == code
    assert err.startswith("ferry: Expected `")
    assert shown in err


def test_a_home_in_use_is_refused_with_75(ferry, tmp_path):
    (tmp_path / "faces").mkdir()
    home = Home.at(tmp_path / "home")
    with home.lock():
        code, _, err = ferry("run", "source", "-p", "faces=faces", "--home", home.root)
    assert code == 75
    assert "Wait until it has ended, or pass another --home." in err
    assert not list(Path(home.runs).iterdir())


def test_push_says_what_a_run_takes(ferry, monkeypatch, tmp_path):
    import ferry.networks as networks
    from ferry.faces.pushing import PushReport

    asked = []

    def push_model(model, target, trust):
        asked.append((model, target, trust))
        return PushReport("s3://models/fer/fer.onnx", 2, 0, 3_000_000)

    monkeypatch.setattr(networks, "push_model", push_model, raising=False)
    code, out, _ = ferry("push", "fer.onnx", "s3://models/fer", "--trust")
    assert code == 0
    assert out.splitlines() == [
        "Sent:    2 files; 0 were there already; 3.0 MB in all",
        "Source:  s3://models/fer/fer.onnx",
    ]
    assert json.loads(ferry("push", "fer.onnx", "s3://models/fer", "--json")[1])["sent"] == 2
    assert asked == [(Path("fer.onnx"), "s3://models/fer", True), (Path("fer.onnx"), "s3://models/fer", False)]


def test_what_is_no_model_is_not_pushed(ferry, monkeypatch, tmp_path):
    (tmp_path / "notes.md").write_text("x")
    code, _, err = ferry("push", "notes.md", "s3://models/fer")
    assert code == 2
    assert "notes.md" in err
