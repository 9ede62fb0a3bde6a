"""The runner on a toy pipeline: real kfp, real processes, no torch and no MLflow."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.pipelines.runner import Home, RunFailed, load_record, run_local
from ferry.pipelines.runner.collect import collect
from ferry.pipelines.runner.settle import settle

from .toy import TOY


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One successful run, for tests that change copies of what it left."""
    patch = pytest.MonkeyPatch()
    for name in ("MLFLOW_TRACKING_URI", "FERRY_CACHE"):
        patch.delenv(name, raising=False)
    from ferry.pipelines.runner import local

    patch.setattr(local, "open_tracking", lambda home, record: {"tracking_uri": "", "run_id": ""})
    home = Home.at(tmp_path_factory.mktemp("toy") / "home")
    other = home.checkpoints / "of-another-run.pt"
    other.write_text("kept")
    lines: list[str] = []
    result = run_local(TOY, {"seed": 3}, home, say=lines.append)
    patch.undo()
    return home, result, lines


def no_nan(value) -> bool:
    if isinstance(value, dict):
        return all(no_nan(item) for item in value.values())
    if isinstance(value, list):
        return all(no_nan(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def test_run_json_says_everything_about_a_finished_run(finished):
    _, result, _ = finished
    left = json.loads((result.folder / "run.json").read_text())
    assert (left["pipeline"], left["status"], left["exit_code"], left["error"]) == ("toy", "done", 0, "")
    assert left["parameters"] == {"mode": "fine", "folder": "", "seed": 3}
    assert left["seed"] == 3
    assert left["versions"]["kfp"]
    assert (result.folder / "artifacts").stat().st_uid == os.getuid()  # an engine would have made it as root
    assert [task["name"] for task in left["tasks"]] == ["first", "second"]
    assert all(task["status"] == "done" and task["started"] for task in left["tasks"])
    assert left["metrics"]["source"] == {"accuracy": 0.5, "mean_class_accuracy": None}
    assert left["model"]["name"] == "toy"
    assert left["warnings"] == ["first: look here"]
    assert 0 < left["overhead_seconds"] <= left["seconds"]
    assert no_nan(left)


def test_every_artifact_is_where_the_record_says(finished):
    _, result, _ = finished
    assert result.artifact("second", "result").read_text() == "data3"
    with pytest.raises(UserError, match="Did you mean 'second/result'"):
        result.artifact("second", "resul")


def test_the_report_is_copied_to_a_name_that_a_browser_opens(finished):
    _, result, _ = finished
    assert result.report == result.folder / "report.html"
    assert result.report.read_text() == "<html>report</html>"


def test_a_finished_run_removes_the_checkpoints_that_it_used_and_no_other(finished):
    home, _, _ = finished
    assert [path.name for path in home.checkpoints.iterdir()] == ["of-another-run.pt"]


def test_a_line_per_stage_is_said(finished):
    _, _, lines = finished
    shown = [line.split(":")[0].strip() for line in lines if "done in" in line]
    assert shown == ["first", "second"]
    assert any("note: look here" in line for line in lines)


def test_the_first_line_says_where_the_run_and_its_log_are(finished):
    _, result, lines = finished
    assert lines[0] == f"Run {result.folder.name}, log {result.folder / 'log.txt'}"


@pytest.fixture
def again(finished, tmp_path):
    """A copy of the finished run's folder and its record, as before collecting."""
    _, result, _ = finished
    folder = tmp_path / "run"
    shutil.copytree(result.folder, folder)
    moved = (folder / "stages" / "first.json").read_text()
    assert moved
    for path in folder.rglob("executor_output.json"):
        path.write_text(path.read_text().replace(str(result.folder), str(folder)))
    record = load_record(folder)
    record.tasks, record.metrics, record.report, record.log = [], {}, "", str(folder / "log.txt")
    return folder, record


def status_of(record, name):
    return next(task for task in record.tasks if task.name == name)


def test_collecting_again_finds_the_same(again):
    folder, record = again
    collect(record, folder)
    assert record.status == "done"
    assert [task.status for task in record.tasks] == ["done", "done"]


def test_a_task_that_the_runner_skipped_without_a_word_fails_the_run(again):
    folder, record = again
    (folder / "stages" / "second.json").unlink()
    shutil.rmtree(next((folder / "artifacts").glob("*/second")))
    collect(record, folder)
    assert (record.status, record.exit_code) == ("failed", 1)
    assert "skipped second" in record.error
    assert status_of(record, "second").status == "skipped"


@pytest.mark.parametrize("line", ["Could not resolve CEL parameter x", "Condition evaluation failed: y"])
def test_a_condition_that_the_runner_could_not_evaluate_fails_the_run(again, line):
    folder, record = again
    with open(folder / "log.txt", "a") as log:
        log.write(f"WARNING {line}\n")
    collect(record, folder)
    assert record.status == "failed"
    assert "skipped" in record.error


def test_a_task_without_a_declared_output_fails_the_run(again):
    folder, record = again
    next((folder / "artifacts").glob("*/first/data")).unlink()
    collect(record, folder)
    assert record.status == "failed"
    assert "did not leave its output data" in record.error


@pytest.mark.parametrize("text", ["", '{"artifacts": {"result": {"art', '{"artifacts": {"result": {}}}', "[]"])
def test_a_task_whose_list_of_outputs_is_damaged_fails_the_run(again, text):
    folder, record = again
    next((folder / "artifacts").glob("*/second/executor_output.json")).write_text(text)
    collect(record, folder)
    assert (record.status, record.exit_code) == ("failed", 1)
    assert status_of(record, "second").status == "failed"
    assert status_of(record, "first").status == "done"


def test_tasks_are_in_the_order_in_which_they_began_also_within_a_second(again):
    folder, record = again
    for name, started in (("first", 5.75), ("second", 5.25)):
        path = folder / "stages" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": started}))
    collect(record, folder)
    assert [task.name for task in record.tasks] == ["second", "first"]


def test_an_error_names_the_parameter_of_the_pipeline_and_not_the_input_of_the_stage(again):
    folder, record = again
    package = folder / "pipeline.yaml"
    text = package.read_text()
    assert text.count("componentInputParameter: mode") == 1
    package.write_text(text.replace("componentInputParameter: mode", "componentInputParameter: toy_mode"))
    path = folder / "stages" / "first.json"
    error = "Expected `mode` to be fine, but got 'mode'. Pass mode=fine or --mode, not toy_mode=1, --modes or x.mode=1."
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed", "exit_code": 2, "error": error}))
    record.status = "failed"
    collect(record, folder)
    assert record.error == (
        "Expected `toy_mode` to be fine, but got 'mode'. "
        "Pass toy_mode=fine or -p toy_mode=..., not toy_mode=1, --modes or x.mode=1."
    )


def test_outputs_that_are_numbers_only_need_no_file(again):
    folder, record = again
    assert not list((folder / "artifacts").glob("*/first/numbers"))
    collect(record, folder)
    assert record.status == "done"


def test_a_stage_that_never_said_how_it_ended_was_killed(again):
    folder, record = again
    path = folder / "stages" / "second.json"
    path.write_text(path.read_text().replace('"done"', '"running"'))
    record.status = "failed"
    collect(record, folder)
    assert record.exit_code == 75
    assert "was killed" in record.error
    assert status_of(record, "second").status == "failed"


def test_a_damaged_stage_record_does_not_hide_the_run(again):
    folder, record = again
    (folder / "stages" / "second.json").write_text("{")
    collect(record, folder)
    assert status_of(record, "second").status == "done"


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("user", 2, "Stage first: Expected `faces` to be labelled, but got 'nothing'. Pass labelled faces."),
        ("nothing", 1, "Stage first: The stage ended without an error but did not leave its output"),
        pytest.param("retry", 75, "Stage first: The server is away. Try again.", marks=pytest.mark.integration),
        pytest.param("crash", 1, "Stage first: ZeroDivisionError: a bug", marks=pytest.mark.integration),
        pytest.param("die", 75, "Stage first: The stage was killed", marks=pytest.mark.integration),
        pytest.param("import", 1, "No module named 'there_is_no_such_module'", marks=pytest.mark.integration),
        pytest.param("exit", 7, "Stage first: ", marks=pytest.mark.integration),
    ],
)
def test_a_failed_stage_gives_the_run_its_message_and_exit_code(home, untracked, mode, code, words):
    with pytest.raises(RunFailed) as raised:
        run_local(TOY, {"mode": mode}, home)
    record = load_record(raised.value.folder)
    assert raised.value.exit_code == record.exit_code == code
    assert words in str(raised.value)
    assert str(raised.value).endswith(f"Log: {record.log}")
    assert "Traceback" not in str(raised.value)
    assert len(str(raised.value).splitlines()) <= 3
    assert record.status == "failed"
    assert status_of(record, "second").status == ("failed" if mode == "nothing" else "skipped")
    if mode not in ("import", "die"):
        assert list(home.checkpoints.iterdir()), "a run that may go on keeps its checkpoints"


def test_the_run_is_stopped_in_order_by_a_signal(home, untracked):
    threading.Thread(target=interrupt_when_running, args=(home,), daemon=True).start()
    with pytest.raises(RunFailed) as raised:
        run_local(TOY, {"mode": "sleep"}, home)
    record = load_record(raised.value.folder)
    assert (raised.value.exit_code, record.status) == (75, "interrupted")
    assert "run the same command again" in str(raised.value)
    assert "interrupted" in status_of(record, "first").error
    assert not alive(pid_of(raised.value.folder))


def pid_of(folder: Path) -> int:
    return json.loads((folder / "stages" / "first.json").read_text())["pid"]


def interrupt_when_running(home):
    wait_for(lambda: list(home.runs.glob("*/stages/first.json")))
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


RUN_TOY = """
import sys
sys.path.insert(0, {tests!r})
from pipelines_tests.toy import TOY
from ferry.pipelines.runner import Home, local, run_local
local.open_tracking = lambda home, record: {{"tracking_uri": "", "run_id": ""}}
run_local(TOY, {{"mode": "sleep"}}, Home.at({home!r}))
"""


@pytest.fixture
def sleeping(home, tmp_path):
    """A run in a process of its own whose first stage sleeps."""
    package = tmp_path / "pipelines_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("toy.py"), package)
    code = RUN_TOY.format(tests=str(tmp_path), home=str(home.root))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        record = wait_for(lambda: next(iter(home.runs.glob("*/stages/first.json")), None))
        yield process, record.parent.parent
        process.kill()


def executor_of(stage: int) -> int:
    return int(Path(f"/proc/{stage}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_nothing_survives_a_killed_run_and_the_next_one_completes_its_record(sleeping, home, untracked):
    process, folder = sleeping
    stage = pid_of(folder)
    executor = executor_of(stage)
    with pytest.raises(RetryableError, match=rf"process id {process.pid} "):
        run_local(TOY, {}, home)
    process.kill()
    wait_for(lambda: not alive(stage) and not alive(executor), 10)
    assert load_record(folder).status == "running"
    with home.lock():  # the lock of a dead process is no obstacle
        (settled,) = settle(home)
    left = load_record(folder)
    assert (left.status, left.exit_code, settled.id) == ("killed", 75, left.id)
    assert [task.status for task in left.tasks] == ["failed", "skipped"]
    assert "run the same command again" in left.error
    assert left.seconds > 0


@pytest.mark.integration
def test_a_killed_executor_takes_its_stage_along_and_the_run_says_so(sleeping):
    process, folder = sleeping
    stage = pid_of(folder)
    os.kill(executor_of(stage), signal.SIGKILL)
    wait_for(lambda: not alive(stage), 10)
    process.wait(30)
    left = load_record(folder)
    assert (left.status, left.exit_code) == ("failed", 75)


def test_paths_are_checked_before_anything_starts(home):
    with pytest.raises(UserError, match=r"Expected `folder` to be an existing path, but got 'nowhere'"):
        run_local(TOY, {"folder": "nowhere"}, home)
    assert not list(home.runs.iterdir())


def test_an_mlflow_server_that_is_away_ends_the_run_before_it_starts(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RetryableError, match="Expected `MLFLOW_TRACKING_URI` to name a server that answers"):
        run_local(TOY, {}, home)
    (folder,) = home.runs.iterdir()
    record = load_record(folder)
    assert (record.status, record.exit_code) == ("failed", 75)
    assert "127.0.0.1:9" in record.error
    assert {task.status for task in record.tasks} == {"skipped"}


@pytest.mark.integration
def test_no_stage_begins_before_the_tracking_store_is_there(home, monkeypatch):
    """Two stages that make the tables of a new store at once crash each other."""
    from ferry.pipelines.runner import local

    begun = []

    def slow(home, record):
        time.sleep(8)  # the executor is ready long before
        begun.extend((home.runs / record.id / "stages").iterdir())
        return {"tracking_uri": "sqlite:////store.db", "run_id": "7"}

    monkeypatch.setattr(local, "open_tracking", slow)
    monkeypatch.setattr(local, "close_tracking", lambda record: None)
    result = run_local(TOY, {}, home)
    assert not begun
    request = json.loads((result.folder / "request.json").read_text())
    assert request["environment"] == {"MLFLOW_TRACKING_URI": "sqlite:////store.db", "MLFLOW_RUN_ID": "7"}


def test_every_run_has_its_own_pipeline_root(finished):
    home, result, _ = finished
    request = json.loads((result.folder / "request.json").read_text())
    assert request["pipeline_root"] == str(result.folder / "artifacts")
    names = {home.new_run("toy").name for _ in range(3)}
    assert len(names) == 3


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_ends_the_run_with_advice(tmp_path, untracked):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        with pytest.raises(RunFailed) as raised:
            run_local(TOY, {"mode": "fill"}, Home.at(place))
        assert raised.value.exit_code == 75
        assert "Free some space" in str(raised.value)
        for path in place.rglob("artifacts"):
            shutil.rmtree(path)
        run_local(TOY, {}, Home.at(place))
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.integration
@pytest.mark.parametrize("fresh", ["", "1"])
def test_files_of_the_current_folder_are_not_taken_for_modules(home, untracked, monkeypatch, tmp_path, fresh):
    monkeypatch.setenv("FERRY_FRESH_STAGES", fresh)
    (tmp_path / "ferry").mkdir()
    (tmp_path / "kfp.py").write_text("raise RuntimeError")
    assert run_local(TOY, {}, home).record.status == "done"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The system's folder for temporary files, for the runner and all that it starts."""
    place = tmp_path / "system"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def test_other_things_in_the_folder_of_a_home_stay(home, untracked):
    (home.root / "tmp").mkdir()
    (home.root / "tmp" / "thesis.txt").write_text("years of work")
    run_local(TOY, {"mode": "fine"}, home)
    assert (home.root / "tmp" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("fresh", "mode"),
    [
        ("", "fine"),
        *[pytest.param(*case, marks=pytest.mark.integration) for case in (("", "die"), ("1", "fine"), ("1", "crash"))],
    ],
)
def test_no_temporary_file_outlives_a_run(system, home, untracked, monkeypatch, fresh, mode):
    monkeypatch.setenv("FERRY_FRESH_STAGES", fresh)
    if mode == "fine":
        first = run_local(TOY, {"mode": mode}, home).record.tasks[0]
        assert Path(first.facts["temporary"]).parent == home.temporary
    else:
        with pytest.raises(RunFailed):
            run_local(TOY, {"mode": mode}, home)
    assert not list(system.iterdir())
    assert not (home.temporary).exists()


def test_temporary_files_of_a_killed_run_go_when_it_is_settled(system, sleeping, home):
    process, folder = sleeping
    stage = pid_of(folder)
    wait_for(lambda: list((home.temporary).glob("toy-*")), 10)
    process.kill()
    wait_for(lambda: not alive(stage), 10)
    assert list((home.temporary).iterdir())
    with home.lock():
        settle(home)
    assert not (home.temporary).exists()
    assert not list(system.iterdir())


@pytest.mark.integration
def test_stages_in_fresh_processes_leave_the_same(home, untracked, monkeypatch):
    monkeypatch.setenv("FERRY_FRESH_STAGES", "1")
    result = run_local(TOY, {"seed": 3}, home)
    assert result.artifact("second", "result").read_text() == "data3"
    assert [task.status for task in result.record.tasks] == ["done", "done"]
