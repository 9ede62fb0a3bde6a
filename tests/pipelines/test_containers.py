"""The runner with containers: what kfp's DockerRunner leaves open is closed, and results are those of processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import docker
import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.faces import render_faces
from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore
from ferry.pipelines.runner import RunFailed, containers, load_record, local, run_local
from ferry.pipelines.runner.stages import Stop

from .. import servers
from .toy import TOY

FERRY = [sys.executable, "-c", "from ferry.pipelines.cli import main; main()"]
REGISTRY = "ferry-test"
real = [pytest.mark.integration, pytest.mark.timeout(1800)]


# --- Without an engine ----------------------------------------------------------------------------------------------


def asked(home, values=(), environment=(), **options):
    folder = home.new_run("toy")
    return containers.surroundings(home, folder, dict(values), {"TMPDIR": "/t", **dict(environment)}, **options)


def test_containers_see_the_home_and_the_data_under_their_own_paths_and_write_only_the_home(home, tmp_path):
    model = tmp_path / "model.onnx"
    for path in (model, tmp_path / "model.onnx.json", tmp_path / "other.onnx", tmp_path / "ca.pem"):
        path.write_text("")
    values = {"target": str(tmp_path), "source": str(model), "holdout": "s3://faces/x", "seed": 1, "of_home": ""}
    found = asked(home, values, {"S3_CA": str(tmp_path / "ca.pem"), "SSL_CERT_FILE": "/absent.pem"})
    wanted = {str(home.root): False, str(tmp_path): True, str(model): True, f"{model}.json": True}
    assert found["mounts"] == {**wanted, str(tmp_path / "ca.pem"): True}
    assert found["labels"]["ferry.home"] == str(home.root)


def test_what_lies_in_the_home_is_mounted_once(home):
    model = home.runs / "model"
    model.mkdir()
    assert asked(home, {"source": str(model)})["mounts"] == {str(home.root): False}


def test_a_cache_elsewhere_can_be_written_and_is_made_by_who_runs(home, tmp_path):
    found = asked(home, environment={"FERRY_CACHE": str(tmp_path / "new" / "cache")})
    assert found["mounts"] == {str(home.root): False, str(tmp_path / "new" / "cache"): False}
    assert (tmp_path / "new" / "cache").is_dir()


def test_a_store_in_a_file_elsewhere_can_be_written(home, tmp_path):
    (tmp_path / "ml").mkdir()
    found = asked(home, environment={"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/ml/a.db"})
    assert found["mounts"][str(tmp_path / "ml")] is False


def test_stages_get_what_they_need_of_the_environment_and_nothing_else(home):
    needed = {
        "FERRY_STAGE_FOLDER": "/f",
        "S3_SECRET_KEY": "s",
        "MINIO_ENDPOINT": "m",
        "AWS_REGION": "r",
        "MLFLOW_TRACKING_TOKEN": "t",
        "https_proxy": "p",
        "NO_PROXY": "n",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    other = {"PATH": "/here", "PYTHONPATH": "/mine", "HOME": "/root", "GITHUB_TOKEN": "no", "LD_PRELOAD": "no"}
    found = asked(home, environment={**needed, **other})
    assert found["passed"] == sorted([*needed, "TMPDIR"])
    assert found["environment"].keys() == {"HOME", "FERRY_RUNNER_LOCK"}
    assert "s" not in found["environment"].values()


def test_files_that_variables_name_are_seen_too(home, tmp_path):
    for name in ("ca.pem", "credentials"):
        (tmp_path / name).write_text("")
    named = {
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(tmp_path / "ca.pem"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "MLFLOW_TRACKING_TOKEN": "no/path",
    }
    mounts = asked(home, environment=named)["mounts"]
    assert mounts == {str(home.root): False, str(tmp_path / "ca.pem"): True, str(tmp_path / "credentials"): True}


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_a_store_that_containers_cannot_find_is_refused_before_the_run(home, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"`MLFLOW_TRACKING_URI` to be a server or a file with its absolute path"):
        run_local(TOY, {}, home, on="docker")
    assert not list(home.runs.iterdir())
    for good in ("http://mlflow:5000", "databricks://x", "sqlite:////var/mlflow.db", "postgresql://db/x"):
        containers.check_store(good)


def test_containers_of_any_user_can_look_into_the_folder_they_start_in(home, monkeypatch):
    """The images' own home is open to its user only; MLflow looks for files where it is started."""
    engine = SimpleNamespace(info=lambda: {"SecurityOptions": []})
    monkeypatch.setattr(containers, "connect", lambda: engine)
    found = asked(home)
    runner = containers.runner_of({**found, "passed": []}, {})
    assert runner.container_run_args["working_dir"] == found["environment"]["HOME"] == str(home.temporary)


def test_who_runs_containers_is_known_to_the_engine_as_it_wants():
    mine = {"user": f"{os.getuid()}:{os.getgid()}", "group_add": os.getgroups()}
    assert containers._person([]) == containers._person(["name=seccomp,profile=default"]) == mine
    assert containers._person(["name=rootless", "name=cgroupns"]) == {"user": "0:0"}
    assert containers._person(["name=selinux"]) == {**mine, "security_opt": ["label=disable"]}


class Hub:
    """An engine that has no images; its registry answers as a test wants."""

    def __init__(self, status, explanation):
        self.images, self.status, self.explanation, self.pulled = self, status, explanation, []

    def get(self, name):
        raise docker.errors.ImageNotFound("no such image")

    def pull(self, name):
        self.pulled.append(name)
        response = SimpleNamespace(status_code=self.status, reason="", url="", headers={})
        raise docker.errors.APIError("x", response=response, explanation=self.explanation)


@pytest.mark.parametrize(
    ("status", "explanation", "kind"),
    [
        (404, "manifest unknown", UserError),
        (500, "pull access denied for ml/ferry-slim", UserError),
        (500, "dial tcp: i/o timeout", RetryableError),
        (503, "", RetryableError),
    ],
)
def test_a_pull_that_fails_tells_whether_a_retry_can_help(monkeypatch, status, explanation, kind):
    hub = Hub(status, explanation)
    monkeypatch.setattr(containers, "connect", lambda: hub)
    monkeypatch.setenv("FERRY_IMAGE_REGISTRY", "registry.example.org/ml")
    with pytest.raises(kind, match=r"Expected `image`"):
        containers.require_images("        image: registry.example.org/ml/ferry-slim:0.1.0\n")
    assert hub.pulled == ["registry.example.org/ml/ferry-slim:0.1.0"]


def test_a_name_without_a_registry_is_never_pulled(monkeypatch):
    """It would be somebody else's folder at a public registry."""
    hub = Hub(200, "")
    monkeypatch.setattr(containers, "connect", lambda: hub)
    with pytest.raises(UserError, match=r"`image` to be there, but got 'ferry/ferry-slim:0.1.0'.*make images"):
        containers.require_images("        image: ferry/ferry-slim:0.1.0\n")
    assert hub.pulled == []


def test_an_engine_that_does_not_answer_ends_the_run_before_it_starts(home, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nobody/is/here.sock")
    with pytest.raises(RetryableError, match=r"`DOCKER_HOST` to name a container engine that answers(.|\n)*--on local"):
        run_local(TOY, {}, home, on="docker")
    assert not list(home.runs.iterdir())


def test_another_place_is_refused(home, ferry):
    with pytest.raises(UserError, match=r"`on`.*'dokcer'.*Did you mean 'docker'"):
        run_local(TOY, {}, home, on="dokcer")


# --- With an engine -------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(engine, images, monkeypatch):
    """Lets runs use the images of the tests."""
    for name, value in engine.environment.items():
        if name.startswith("DOCKER_"):
            monkeypatch.setenv(name, value)
    compiled = local.compile_pipeline
    monkeypatch.setattr(local, "compile_pipeline", lambda info: compiled(info).replace(" ferry/", f" {REGISTRY}/"))
    return containers.connect()


@pytest.fixture
def of(ours, home):
    """Returns the containers of a home."""
    return lambda: ours.containers.list(all=True, filters={"label": f"{containers.HOME_LABEL}={home.root}"})


class TestEngine:
    pytestmark = real

    def test_a_run_leaves_what_a_run_of_processes_leaves(self, ours, of, home, untracked):
        lines = []
        result = run_local(TOY, {"seed": 3}, home, say=lines.append, on="docker")
        assert (result.record.status, result.record.on) == ("done", "docker")
        assert result.artifact("second", "result").read_text() == "data3"
        assert [task.status for task in result.record.tasks] == ["done", "done"]
        assert result.record.warnings == ["first: look here"]
        assert any("second: done" in line for line in lines)
        assert result.artifact("second", "result").stat().st_uid == os.getuid()
        assert not of()

    @pytest.mark.parametrize(
        ("mode", "code", "says"),
        [
            ("user", 2, "Expected `faces` to be labelled"),
            ("retry", 75, "The server is away"),
            ("die", 75, "killed, perhaps because memory ran out"),
            ("exit", 7, "ended itself with 7"),
            ("nothing", 1, "did not leave its output"),
            ("import", 1, "there_is_no_such_module"),
        ],
    )
    def test_a_stage_that_fails_fails_the_run_and_says_why(self, ours, of, home, untracked, mode, code, says):
        with pytest.raises(RunFailed, match=says) as error:
            run_local(TOY, {"mode": mode}, home, on="docker")
        assert error.value.exit_code == code
        record = load_record(error.value.folder)
        assert record.tasks[0].status == ("skipped" if mode == "import" else "failed")
        assert record.tasks[1].status != "done"
        assert not of()

    def test_no_failing_container_is_taken_for_a_success(self, ours, images):
        """kfp's own way took one of sixty for a success, as the container was gone before it was asked."""
        codes = [
            containers.run_container(ours, images["slim"], ["sh", "-c", f"exit {code}"], Stop())
            for code in [7, 0, 1] * 10
        ]
        assert codes == [7, 0, 1] * 10

    def test_an_image_that_is_nowhere_is_named_before_anything_runs(self, ours, home, monkeypatch):
        compiled, absent = local.compile_pipeline, "localhost:1/none/ferry-slim"
        changed = lambda info: compiled(info).replace("ferry-test/ferry-slim", absent)  # noqa: E731
        monkeypatch.setattr(local, "compile_pipeline", changed)
        says = rf"`image` to be there, but got '{absent}(.|\n)*make images"
        with pytest.raises(UserError, match=says):
            run_local(TOY, {}, home, on="docker")
        assert not list(home.runs.iterdir())

    @pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGKILL])
    def test_a_run_that_is_stopped_or_killed_leaves_no_container(self, ours, of, home, name, tmp_path):
        script = tmp_path / "run.py"
        script.write_text(SLEEPING.format(tests=str(Path(__file__).parents[1].parent), home=str(home.root)))
        process = subprocess.Popen(
            [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )
        wait_for(lambda: list(home.runs.glob("*/stages/first.json")))
        process.send_signal(name)
        assert process.wait(60) == (75 if name == signal.SIGINT else -signal.SIGKILL), process.stderr.read()
        wait_for(lambda: not [one for one in of() if one.status == "running"], 30)
        containers.remove_left(home)
        assert not of()
        (record,) = [load_record(path) for path in home.runs.glob("*/run.json")]
        if name == signal.SIGINT:
            assert (record.status, record.tasks[0].exit_code) == ("interrupted", 75)
            assert "first was interrupted" in record.tasks[0].error


SLEEPING = """
import sys
sys.path.insert(0, {tests!r})
from tests.pipelines.toy import TOY
from ferry.common.errors import FerryError
from ferry.pipelines.runner import Home, local
compiled = local.compile_pipeline
local.compile_pipeline = lambda info: compiled(info).replace(" ferry/", " ferry-test/")
local.open_tracking = lambda home, record: {{"tracking_uri": "", "run_id": ""}}
try:
    local.run_local(TOY, {{"mode": "sleep"}}, Home.at({home!r}), on="docker")
except FerryError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- The whole main job ---------------------------------------------------------------------------------------------

SOURCE = {"training_epochs": 3, "network_width": 8, "training_batch_size": 32}
CLUP = {
    "pretraining_epochs": 2,
    "pretraining_batch_size": 32,
    "pretraining_prototypes": 32,
    "finetuning_epochs": 2,
    "finetuning_batch_size": 16,
    "labelling_score": "confidence",
    "holdout_classes": "anger,fear,happiness,sadness,surprise",
    "seed": 5,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A real S3 store with faces of a target, and a real MLflow server; the variables that name them."""
    place = tmp_path_factory.mktemp("stores")
    render_faces(place / "target", 200, "low_light", 2, splits={"train": 0.7, "test": 0.3})
    (place / "mlflow").mkdir()
    try:
        with (
            servers.seaweed("AKIATEST", "not-printed", "faces") as endpoint,
            servers.mlflow(place / "mlflow") as tracking,
        ):
            store = ObjectStore(ObjectStoreConfig(endpoint, "AKIATEST", "not-printed"))
            for path in sorted((place / "target").rglob("*")):
                if path.is_file():
                    store.upload(path, "faces", f"new/{path.relative_to(place / 'target')}")
            yield {
                "S3_ENDPOINT": endpoint,
                "S3_ACCESS_KEY": "AKIATEST",
                "S3_SECRET_KEY": "not-printed",
                "MLFLOW_TRACKING_URI": tracking.uri,
                "OMP_NUM_THREADS": "1",
            }
    except servers.Missing as reason:
        pytest.skip(str(reason))


def words(pipeline, home, **parameters):
    pairs = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    return ["run", pipeline, "--home", str(home), "--json", *pairs]


class TestWhole:
    pytestmark = real

    @pytest.fixture(scope="class")
    def runs(self, engine, images, stores, tmp_path_factory):
        """The same two commands, with processes inside one container and with a container for each stage."""
        place = tmp_path_factory.mktemp("containers")
        render_faces(place / "source", 140, "shaded", 1, splits={"train": 1.0})
        named = [word for name, value in stores.items() for word in ("--env", f"{name}={value}")]
        inside = ["run", "--rm", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}", "--volume"]
        inside += [f"{place}:{place}", "--env", f"HOME={place}", *named, images["cpu"], "ferry"]
        trained = json.loads(
            engine.run(*inside, *words("source", place / "one", faces=place / "source", **SOURCE)).stdout
        )
        model = trained["tasks"][0]["artifacts"]["model"]
        given = {"target": "s3://faces/new", "holdout": "s3://faces/new", "source": model, **CLUP}
        processes = json.loads(engine.run(*inside, *words("clup", place / "one", **given)).stdout)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FERRY_", "MLFLOW_"))}
        environment = {**kept, **engine.environment, **stores, "FERRY_IMAGE_REGISTRY": REGISTRY}
        command = [*FERRY, *words("clup", place / "many", **given), "--on", "docker"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return processes, json.loads(done.stdout)

    def test_results_are_equal_bit_for_bit(self, runs):
        processes, each = runs
        assert (processes["on"], each["on"]) == ("local", "docker")
        for task in ("re-estimate-statistics", "fine-tune"):
            assert digest(processes, task) == digest(each, task), task
        assert processes["metrics"] == each["metrics"]
        assert [task["name"] for task in each["tasks"] if task["status"] != "done"] == []

    def test_both_are_in_the_same_registry_with_their_report(self, runs, stores):
        from mlflow import MlflowClient

        client = MlflowClient(stores["MLFLOW_TRACKING_URI"])
        assert [run["model"]["version"] for run in runs] == ["1", "2"]
        for run in runs:
            kept = {path.rpartition("/")[2] for path in files(client, run["mlflow"]["run_id"])}
            assert {"report.html", "metrics.json"} <= kept

    def test_no_key_is_in_what_a_run_leaves(self, runs):
        for run in runs:
            folder = Path(run["log"]).parent
            for path in folder.rglob("*"):
                if path.is_file():
                    assert b"not-printed" not in path.read_bytes(), path


def digest(run, task):
    folder = next(Path(entry["artifacts"]["model"]) for entry in run["tasks"] if entry["name"] == task)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def files(client, run, folder=None):
    for entry in client.list_artifacts(run, folder):
        yield from files(client, run, entry.path) if entry.is_dir else [entry.path]
