"""What is in the compiled YAML: stable bytes, our images only, nothing installed at run time, labels kept apart.

After a wanted change refresh the golden files with:
FERRY_UPDATE_GOLDEN=1 python -m pytest tests/pipelines/test_compiled.py
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from ferry.common.errors import UserError
from ferry.common.images import image
from ferry.pipelines.catalogue import PIPELINES, checked_parameters, compile_pipeline, find, parameters
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

GOLDEN = Path(__file__).parent / "golden"
IMAGES = {image("slim"), image("cpu"), image("cuda")}
NAMES = sorted(PIPELINES)


@cache
def text(name: str) -> str:
    return compile_pipeline(find(name))


@cache
def spec(name: str) -> dict:
    return next(document for document in yaml.safe_load_all(text(name)) if "root" in document)


def containers(name: str) -> dict[str, dict]:
    return {key: entry["container"] for key, entry in spec(name)["deploymentSpec"]["executors"].items()}


def without_versions(compiled: str) -> str:
    compiled = re.sub(r"^sdkVersion: .*$", "sdkVersion: any", compiled, flags=re.M)
    return re.sub(r"(image: \S+):\S+", r"\1:any", compiled)


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_pipeline_is_the_golden_one(name):
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("FERRY_UPDATE_GOLDEN") == "1":
        path.write_text(text(name), encoding="utf-8")
    assert without_versions(text(name)) == without_versions(path.read_text(encoding="utf-8")), (
        "If the change is wanted: FERRY_UPDATE_GOLDEN=1 python -m pytest tests/pipelines/test_compiled.py"
    )


@pytest.mark.slow
def test_other_processes_compile_to_the_same_bytes_without_torch_and_mlflow():
    code = (
        "import sys, ferry, ferry.pipelines.clup, ferry.training.runs\n"
        "from ferry.pipelines.catalogue import checked_parameters, find\n"
        "checked_parameters(find('clup'), {'target': 't', 'source': 's'})\n"
        "sys.stdout.write(ferry.compile_pipeline('clup'))\n"
        "heavy = {'torch', 'mlflow', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONWARNINGS": "ignore"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout == text("clup") == compile_pipeline(find("clup"))


@pytest.mark.parametrize("name", NAMES)
def test_images_are_ours_and_nothing_is_installed_at_run_time(name):
    for key, container in containers(name).items():
        command = "\n".join([*container["command"], *container.get("args", [])])
        assert container["image"] in IMAGES, key
        assert "pip install" not in command, key
        assert "kfp.dsl.executor_main" in command, key


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described_and_has_a_default_or_is_required(name):
    for key, entry in spec(name)["root"]["inputDefinitions"]["parameters"].items():
        description = entry.get("description", "")
        required = not entry.get("isOptional", False)
        assert description.startswith("[required] " if required else "[optional] "), key
        assert required == ("defaultValue" not in entry), key
        assert len(description) <= 200, key
    assert all(entry.description and not entry.description.startswith("[") for entry in parameters(find(name)).values())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_a_group_are_next_to_each_other_in_the_form(name):
    """Kubeflow's form goes by the alphabet; what belongs together begins with the same word."""
    names = list(spec(name)["root"]["inputDefinitions"]["parameters"])
    assert names == sorted(names) == sorted(parameters(find(name)))
    groups = [group for group, _ in groupby(names, lambda entry: entry.split("_")[0])]
    assert len(groups) == len(set(groups))


# --- The words of parameters -----------------------------------------------------------------------------------------

FREE = {  # texts that are no words: places, names, lists
    *("target", "target_split", "target_labels", "source", "holdout", "holdout_split", "holdout_classes"),
    *("pretraining_init", "model_name", "faces", "faces_split"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_takes_certain_words_names_them_and_its_default_is_one(name):
    for key, entry in spec(name)["root"]["inputDefinitions"]["parameters"].items():
        words = entry.get("literals", [])
        assert tuple(words) == parameters(find(name))[key].choices
        assert bool(words) == (entry["parameterType"] == "STRING" and key not in FREE), key
        if words:
            assert entry["defaultValue"] in words, key
            assert len(words) == len(set(words)) > 1, key
            said = set(re.findall(r"\w+", entry["description"]))
            assert set(words) <= said or "(ferry faces layouts lists them)" in entry["description"], key
    assert set(find(name).choices()) <= set(parameters(find(name)))


@pytest.mark.parametrize("name", NAMES)
def test_the_words_of_a_parameter_are_those_that_pass_the_check(name):
    required = {key: key for key, entry in parameters(find(name)).items() if entry.required}
    others = {"finetuning_start": "source"} if name == "clup" else {}  # goes with pretraining=none too
    for key, words in find(name).choices().items():
        for word in words:
            checked_parameters(find(name), {**required, **others, key: word})
        for word in ("", words[0].upper(), "word"):
            with pytest.raises(UserError, match=f"Expected `{key}` to be one of {words[0]}, "):
                checked_parameters(find(name), {**required, **others, key: word})


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_with_words_is_what_kfp_reads(name):
    """Kubeflow's server reads it as strictly: an unknown field is an error there, as it is here."""
    read = json_format.ParseDict(spec(name), PipelineSpec())
    found = {key: len(entry.literals) for key, entry in read.root.input_definitions.parameters.items()}
    assert {key: count for key, count in found.items() if count} == {
        key: len(words) for key, words in find(name).choices().items()
    }
    assert components.load_component_from_text(text(name)).pipeline_spec.root == read.root


@pytest.mark.parametrize("name", NAMES)
def test_without_words_a_pipeline_is_the_same_for_servers_that_do_not_know_them(name):
    plain = next(yaml.safe_load_all(compile_pipeline(find(name), choices=False)))
    assert "literals" not in str(plain)
    with_words = yaml.safe_load(text(name))
    for entry in with_words["root"]["inputDefinitions"]["parameters"].values():
        entry.pop("literals", None)
    assert with_words == plain
    assert compile_pipeline(find(name)) == text(name)  # the pipeline itself was not changed


# --- Components ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_a_component_is_described(name):
    for key, component in spec(name)["components"].items():
        for group in component.get("inputDefinitions", {}).values():
            for entry, values in group.items():
                assert values.get("description"), f"{key} {entry}"


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_records_itself_under_the_name_of_its_task(name):
    tasks = spec(name)["root"]["dag"]["tasks"]
    for task, values in tasks.items():
        label = spec(name)["components"][values["componentRef"]["name"]]["executorLabel"]
        source = containers(name)[label]["command"][3]
        assert f'with stage("{task}")' in source


@pytest.mark.parametrize("name", NAMES)
def test_the_body_of_a_component_is_a_shell(name):
    for key, container in containers(name).items():
        (function,) = [node for node in ast.parse(container["command"][3]).body if isinstance(node, ast.FunctionDef)]
        lines = function.end_lineno - function.body[1].lineno + 1
        assert lines <= 25, key


@pytest.mark.parametrize("name", NAMES)
def test_an_input_of_a_component_that_may_be_left_out_has_a_value_and_never_none(name):
    """An optional parameter without a value arrives as None, which kfp's local runner cannot pass on.

    Artifacts that a door itself takes for absent are another matter: the task leaves them out.
    """
    for key, component in spec(name)["components"].items():
        for entry, values in component.get("inputDefinitions", {}).get("parameters", {}).items():
            assert not values.get("isOptional", False) or values.get("defaultValue") is not None, f"{key} {entry}"
        for entry, values in component.get("inputDefinitions", {}).get("artifacts", {}).items():
            may_be_absent = key == "comp-evaluate" and entry in ("adabn", "pretrained", "labels")
            assert bool(values.get("isOptional")) == may_be_absent, f"{key} {entry}"


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_text_numbers_or_truth_values(name):
    """Numbers within lists and structures arrive as floats."""
    kinds = {"STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"}
    for key, component in [("root", spec(name)["root"]), *spec(name)["components"].items()]:
        for entry, values in component.get("inputDefinitions", {}).get("parameters", {}).items():
            assert values["parameterType"] in kinds, f"{key} {entry}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_used_that_the_local_runner_does_differently(name):
    """Conditions on named outputs are silently false, other placeholders raise, loops and selections differ."""
    tasks = spec(name)["root"]["dag"]["tasks"]
    for key, values in tasks.items():
        assert not {"triggerPolicy", "parameterIterator", "artifactIterator"} & set(values), key
        for entry in values.get("inputs", {}).get("artifacts", {}).values():
            assert set(entry) == {"taskOutputArtifact"}, key
    assert not {key for key, component in spec(name)["components"].items() if "dag" in component}
    used = set(re.findall(r"\{\{\$\.?([\w.]*)", text(name)))
    assert used <= {"", "inputs.parameters"}, used
    for key, container in containers(name).items():
        assert container["command"][0] == "sh", key
        assert not set(container) - {"image", "command", "args"}, key


def test_a_wrong_holdout_or_model_ends_the_run_before_the_training():
    tasks = spec("clup")["root"]["dag"]["tasks"]
    assert {"import-target", "import-holdout", "import-model"} <= set(tasks["pretrain"]["dependentTasks"])
    given = tasks["import-holdout"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"]
    assert given == {"outputArtifactKey": "model", "producerTask": "import-model"}


def test_only_evaluation_sees_the_holdout():
    tasks = spec("clup")["root"]["dag"]["tasks"]
    touching = set()
    for task, values in tasks.items():
        for entry in values.get("inputs", {}).get("artifacts", {}).values():
            if entry.get("taskOutputArtifact", {}).get("producerTask") == "import-holdout":
                touching.add(task)
        for entry in values.get("inputs", {}).get("parameters", {}).values():
            if entry.get("componentInputParameter", "").startswith("holdout"):
                touching.add(task)
    assert touching - {"check-parameters", "take-snapshot"} == {"import-holdout", "evaluate"}
    for name in ("check-parameters", "take-snapshot"):  # which see names of places, and hand on no faces
        component = spec("clup")["components"][f"comp-{name}"]
        assert not component["inputDefinitions"].get("artifacts")
        assert not component["outputDefinitions"].get("artifacts")


def test_the_first_stage_checks_every_parameter_and_nothing_is_read_before_it_is_done():
    tasks = spec("clup")["root"]["dag"]["tasks"]
    wanted = spec("clup")["root"]["inputDefinitions"]["parameters"]
    found = spec("clup")["components"]["comp-check-parameters"]["inputDefinitions"]["parameters"]
    assert {name: entry["parameterType"] for name, entry in found.items()} == {
        name: entry["parameterType"] for name, entry in wanted.items()
    }
    for name, entry in wanted.items():
        marked = " ".join(entry["description"].split())
        assert marked.partition("] ")[2] == " ".join(found[name]["description"].split())
    given = tasks["check-parameters"]["inputs"]["parameters"]
    assert given == {name: {"componentInputParameter": name} for name in wanted}
    roots = {name for name, task in tasks.items() if not task.get("dependentTasks")}
    assert roots == {"check-parameters"}


@pytest.mark.parametrize("name", ["clup", "adabn"])
def test_what_is_read_from_outside_is_cached_by_its_state_and_the_rest_that_asks_outside_is_never_cached(name):
    """Kubeflow's cache knows inputs: the name of a place stays the same when what lies there does not."""
    tasks = spec(name)["root"]["dag"]["tasks"]
    cached = {task for task, values in tasks.items() if values.get("cachingOptions", {}).get("enableCache")}
    assert cached == set(tasks) - {"take-snapshot", "register"}
    for task, state in (("import-target", "target"), ("import-model", "source"), ("import-holdout", "holdout")):
        given = tasks[task]["inputs"]["parameters"]["snapshot"]["taskOutputParameter"]
        assert given == {"producerTask": "take-snapshot", "outputParameterKey": state}
    looked_at = tasks["take-snapshot"]["inputs"]["parameters"]
    assert {entry["componentInputParameter"] for entry in looked_at.values()} == set(find(name).paths)
    roots = {task for task, values in tasks.items() if not values.get("dependentTasks")}
    assert roots == ({"check-parameters"} if name == "clup" else {"take-snapshot"})


def test_a_source_training_is_never_cached():
    assert not spec("source")["root"]["dag"]["tasks"]["train-source"].get("cachingOptions", {}).get("enableCache")


def test_numbers_reach_the_tasks_that_they_name():
    tasks = spec("clup")["root"]["dag"]["tasks"]
    prefixes = {"labelling": "pseudo-label", "pretraining": "pretrain", "finetuning": "fine-tune"}
    for name in parameters(find("clup")):
        prefix = name.split("_")[0]
        if prefix in prefixes:
            given = tasks[prefixes[prefix]]["inputs"]["parameters"].values()
            assert name in {entry.get("componentInputParameter") for entry in given}, name
    given = tasks["evaluate"]["inputs"]["parameters"]
    assert given["scored"] == {"componentInputParameter": "holdout_classes"}


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "onnxruntime", "safetensors"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize("kind", ["slim", pytest.param("cpu", marks=pytest.mark.slow)])
def test_what_a_stage_imports_is_there_where_kfp_runs_it(kind):
    """In a pod kfp.dsl defines no components and no pipelines, and the image slim has no torch."""
    lines = set()
    for name in NAMES:
        for container in containers(name).values():
            if container["image"] == image(kind):
                lines |= set(re.findall(r"^ +(from ferry\S* import \w+)", container["command"][3], re.MULTILINE))
    assert any("common.stage" in line for line in lines)
    code = "\n".join([WITHOUT_TORCH if kind == "slim" else "", *sorted(lines)])
    if kind == "slim":  # what the functions import in turn, on the way that every run takes
        code += "\nfrom ferry.pipelines.checks import clup"
        code += f"\nclup.preflight({{**{dict(defaults())!r}, 'target': 'faces', 'source': 'model'}})"
    environment = {**os.environ, "_KFP_RUNTIME": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def defaults():
    return {name: entry.default for name, entry in parameters(find("clup")).items()}
