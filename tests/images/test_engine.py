"""The images in a real container engine: built, looked into, and used as Kubeflow uses them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from ferry.networks.trained import load_training

from .. import servers
from ..training.launch.conftest import make_inputs
from ..training.launch.test_processes import STAGE

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(*kinds):
    text = "".join((ROOT / "images" / "locks" / f"{kind}.txt").read_text() for kind in kinds)
    return {plain(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


@pytest.mark.parametrize("kind", ["slim", "cpu"])
def test_what_an_image_says_of_itself(engine, images, kind):
    config = engine.inspect(images[kind])["Config"]
    assert config["User"] == "1000:0"
    assert not config.get("Entrypoint")
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["org.opencontainers.image.revision"])
    for word in ("SECRET", "PIP_", "TOKEN"):
        assert word not in json.dumps(config["Env"])


@pytest.mark.parametrize("kind", ["slim", "cpu"])
@pytest.mark.parametrize("user", [None, "54321:0"])
def test_any_user_can_write_where_it_must_and_nowhere_else(engine, images, kind, user):
    """OpenShift gives numbers that the image does not know."""
    cannot = [f"! touch {folder}/x 2> /dev/null" for folder in ("/opt/ferry", "/opt/package", "/usr/bin")]
    script = " && ".join(["id -u", "touch ~/x", *cannot, "ferry --help"])
    options = ["--user", user] if user else []
    done = engine.run("run", "--rm", "--network", "none", *options, images[kind], "sh", "-c", script)
    assert done.stdout.startswith("1000\n" if user is None else "54321\n")
    assert "ferry" in done.stdout


@pytest.mark.parametrize(("kind", "locks"), [("slim", ["slim"]), ("cpu", ["slim", "cpu"])])
def test_the_bill_of_materials_lists_what_is_there_and_the_lock_is_what_is_there(engine, images, kind, locks):
    script = (
        "import json, importlib.metadata as m; "
        "print(json.dumps([[d.metadata['Name'], d.version] for d in m.distributions()])); "
        "print(open('/opt/package/sbom.json').read())"
    )
    first, _, rest = engine.run("run", "--rm", images[kind], "python3", "-c", script).stdout.partition("\n")
    there = {(plain(name), version) for name, version in json.loads(first)}
    listed = {(plain(part["name"]), part["version"]) for part in json.loads(rest)["components"]}
    assert there - {("ferry-fer", "0.1.0")} <= listed
    assert {name for name, _ in there} == locked(*locks) | {"ferry-fer"}


def test_slim_has_no_torch_and_cpu_one_that_computes(engine, images):
    asked = "import importlib.util as u; print([u.find_spec(n) is not None for n in ('torch', 'pip', 'kfp')])"
    assert engine.run("run", "--rm", images["slim"], "python3", "-c", asked).stdout.strip() == "[False, False, True]"
    asked = "import torch, ferry.networks; a = torch.ones(3, 3); print(torch.version.cuda, (a @ a).sum().item())"
    assert engine.run("run", "--rm", images["cpu"], "python3", "-c", asked).stdout.strip() == "None 27.0"


def test_what_all_kinds_have_is_stored_once(engine, images):
    """Nodes pull the common layers of slim and cpu one time."""
    slim, cpu = (engine.inspect(images[kind])["RootFS"]["Layers"] for kind in ("slim", "cpu"))
    assert cpu[: len(slim)] == slim


def test_a_stage_with_several_gpus_trains_in_several_processes_of_its_pod(engine, images, tmp_path):
    """As many processes of a CPU here; the pod needs no network and no home for it."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    make_inputs(inputs)
    (tmp_path / "out").mkdir(mode=0o777)
    tmp_path.chmod(0o777)
    (tmp_path / "out").chmod(0o777)
    options = ["--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]
    options += ["--security-opt", "no-new-privileges", "--env", "FERRY_PROCESSES=2", "--env", "HOME=/tmp"]
    options += ["--volume", f"{inputs}:/inputs:ro", "--volume", f"{tmp_path / 'out'}:/work"]
    command = ["python3", "-c", STAGE, "/work", "/inputs", "1"]
    done = engine.run("run", "--rm", *options, images["cpu"], *command)
    assert "Traceback" not in done.stderr
    assert load_training(tmp_path / "out" / "out")["steps"] == 5


def test_the_champion_is_served_as_the_manifests_run_it(engine, images, tmp_path):
    """Read-only, without rights, as a user of group 0."""
    tmp_path.chmod(0o755)
    make_inputs(tmp_path)
    (port,) = servers.free_ports(1)
    options = [
        "--network",
        "host",
        "--read-only",
        "--tmpfs",
        "/tmp:mode=1777",
        "--cap-drop",
        "ALL",
        "--env",
        "HOME=/tmp",
    ]
    options += [
        "--security-opt",
        "no-new-privileges",
        "--user",
        "1000:0",
        "--volume",
        f"{tmp_path / 'source'}:/model:ro",
    ]
    command = ["ferry", "serve", "/model", "--host", "127.0.0.1", "--port", str(port)]
    name = f"ferry-serving-{port}"
    engine.run("run", "--detach", "--rm", "--name", name, *options, images["cpu"], *command)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                    assert json.load(answer)["classes"][0] == "anger"
                break
            except OSError:
                assert time.monotonic() < end, engine.run("logs", name).stderr
                time.sleep(0.5)
        body = json.dumps({"instances": [[[0] * 16] * 16]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            (prediction,) = json.load(answer)["predictions"]
        assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    finally:
        engine.run("stop", "--time", "20", name)
