"""The import of a source model: opened once, packed, and trusted or not."""

from __future__ import annotations

import json

import pytest
import torch
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.faces import EXPRESSIONS
from ferry.networks import Architecture, build_classifier, load_imported, load_source, save_model, write_sidecar
from ferry.networks.stage import import_model_stage


@pytest.fixture
def own(tmp_path):
    model = build_classifier(Architecture(width=4, input_size=16), EXPRESSIONS, seed=1)
    save_model(model.eval(), tmp_path / "own", method="supervised", lineage={})
    return tmp_path / "own"


@pytest.fixture
def scripted(tmp_path):
    class Light(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :7]

    path = tmp_path / "given" / "light.pt"
    path.parent.mkdir()
    torch.jit.script(Light()).save(str(path))
    write_sidecar(path, EXPRESSIONS, size=4, channels=1, multiply=1 / 255, add=0, logits_output="0")
    return path


def test_a_model_of_ferry_is_copied_and_its_classes_are_told(own, tmp_path):
    record = StageRecord("import-model")
    found = import_model_stage(str(own), tmp_path / "model", record)
    assert found["classes"].split(", ") == record.facts["classes"] == list(EXPRESSIONS)
    assert found["source"] == str(own)
    assert load_imported(tmp_path / "model").digest == load_source(own).digest == found["digest"]


def test_classes_that_are_no_expressions_are_named(scripted, tmp_path):
    for words, said in ((EXPRESSIONS, False), (("blah", *EXPRESSIONS[1:]), True)):
        write_sidecar(scripted, words, size=4, channels=1, multiply=1 / 255, add=0, logits_output="0")
        record = StageRecord("import-model")
        import_model_stage(str(scripted), tmp_path / "model", record, trust=True)
        assert any("blah are none of Ferry's expressions" in warning for warning in record.warnings) == said


def test_a_torchscript_file_is_opened_only_where_it_is_trusted_and_later_stages_need_not_ask(scripted, tmp_path):
    with pytest.raises(UserError, match=r"Expected `trust` to be true for a TorchScript file"):
        import_model_stage(str(scripted), tmp_path / "model", StageRecord("import-model"))
    assert not (tmp_path / "model").exists()
    record = StageRecord("import-model")
    import_model_stage(str(scripted), tmp_path / "model", record, trust=True)
    assert any("no features" in warning for warning in record.warnings)
    assert json.loads((tmp_path / "model" / "foreign.json").read_text())["file"] == "light.pt"
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 3] = 200
    assert load_imported(tmp_path / "model").outputs(pixels).predictions().tolist() == [3, 3]
    with pytest.raises(UserError, match="trust"):
        load_source(tmp_path / "model")
