from __future__ import annotations

import pkgutil
import subprocess
import sys

import ferry
import pytest
from ferry.common.errors import UserError


def test_the_public_names_are_there_and_hide_no_submodule():
    assert set(ferry.__all__) == {
        "compile_pipeline",
        "demo",
        "import_faces",
        "load_classifier",
        "open_faces",
        "predict",
        "render_faces",
        "run",
        "serve",
    }
    assert all(callable(getattr(ferry, name)) and getattr(ferry, name).__doc__ for name in ferry.__all__)
    assert not set(ferry.__all__) & {module.name for module in pkgutil.iter_modules(ferry.__path__)}


def test_importing_the_package_imports_next_to_nothing():
    code = "import sys; before = set(sys.modules); import ferry; print(len(set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 40


def test_run_checks_before_it_starts(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'faces'"):
        ferry.run("source", tmp_path / "home", face=".")
    with pytest.raises(UserError, match="Expected `faces` to be an existing path"):
        ferry.run("source", tmp_path / "home", faces="nowhere")


def test_the_demo_runs_the_source_pipeline_first_and_gives_its_model_to_the_second(tmp_path, monkeypatch):
    from ferry.pipelines import demo
    from ferry.pipelines.runner import Home, RunRecord, RunResult, TaskRecord

    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr(demo, "SOURCE_FACES", 28)
    monkeypatch.setattr(demo, "TARGET_FACES", 28)
    calls = []

    def pretend(pipeline, values, home, *, say=None, keep_checkpoints=False):
        with pytest.raises(Exception, match="to be free"), home.lock():
            pass
        calls.append((pipeline.name, values, keep_checkpoints))
        checkpoint = home.checkpoints / f"{pipeline.name}.pt"
        checkpoint.touch()
        task = TaskRecord("train-source", "done", artifacts={"model": str(model)}, checkpoints=[str(checkpoint)])
        return RunResult(tmp_path, RunRecord("1", pipeline.name, dict(values), tasks=[task]))

    monkeypatch.setattr(demo, "run_held", pretend)
    lines = []
    ferry.demo(tmp_path / "home", seed=4, say=lines.append, labelling_keep=0.25)
    (first, source, kept), (second, clup, _) = calls
    assert (first, second, kept) == ("source", "clup", True)
    assert clup["source"] == str(model)
    assert clup["target"] != source["faces"]
    assert (source["seed"], clup["seed"], clup["labelling_keep"]) == (4, 4, 0.25)
    assert [path.name for path in Home.at(tmp_path / "home").checkpoints.iterdir()] == ["clup.pt"]
    assert lines


def test_the_demo_refuses_a_seed_before_it_renders_anything(tmp_path):
    with pytest.raises(UserError, match=r"Expected `seed` to be from 0 to 4294967295, but got -1"):
        ferry.demo(tmp_path / "home", seed=-1)
    assert not (tmp_path / "home" / "demo").exists()
