from __future__ import annotations

import io
import json

import numpy as np
import onnx
import pytest
from ferry.common.errors import UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import Architecture, build_classifier, save_model, write_sidecar
from ferry.pipelines.api import predict
from onnx import TensorProto, helper, numpy_helper
from PIL import Image


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    architecture = Architecture(name="resnet10", width=4, input_size=16)
    save_model(build_classifier(architecture, EXPRESSIONS, seed=1), folder, method="test", lineage={})
    return folder


def png(seed, size=20, mode="L"):
    shape = (size, size) if mode == "L" else (size, size, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(seed, mode="RGB" if seed else "L"))
    return folder


def test_every_image_gets_named_probabilities_that_sum_to_one(model, pictures):
    found = predict(model, pictures)
    assert [entry.image for entry in found] == [str(pictures / f"{seed}.png") for seed in range(3)]
    for entry in found:
        assert tuple(entry.probabilities) == EXPRESSIONS
        assert sum(entry.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert entry.probability == max(entry.probabilities.values()) == entry.probabilities[entry.label]


def test_the_result_does_not_depend_on_company_or_batches(model, pictures, monkeypatch):
    from ferry.pipelines import prediction

    together = predict(model, pictures)
    monkeypatch.setattr(prediction, "_AT_ONCE", 1)
    alone = predict(model, [pictures / "2.png", pictures / "0.png", pictures / "2.png"])
    assert [entry.label for entry in alone] == [together[k].label for k in (2, 0, 2)]
    assert alone[0].probability == pytest.approx(together[2].probability, abs=1e-5)


def test_an_unreadable_image_gets_a_note_and_the_others_their_labels(model, pictures):
    (pictures / "1.png").write_bytes(b"no picture")
    found = predict(model, str(pictures))
    assert [bool(entry.label) for entry in found] == [True, False, True]
    assert found[1].note
    assert found[1].to_json()["probability"] is None


def test_a_missing_image_an_empty_folder_and_a_missing_model_are_named(model, tmp_path):
    with pytest.raises(UserError, match="Expected `images` to be existing files"):
        predict(model, tmp_path / "none.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Expected `images` to be a folder with images"):
        predict(model, tmp_path / "empty")
    with pytest.raises(UserError, match=r"Expected `model` to be an existing file or folder, but got .*nowhere"):
        predict(tmp_path / "nowhere", [])


def test_a_faces_folder_is_named_as_such_also_where_it_holds_a_picture(model, pictures):
    (pictures / "faces.json").write_text("{}")
    with pytest.raises(UserError, match=r"not a Faces folder, but got .*pictures'. Pass the pictures"):
        predict(model, pictures)


def test_the_command_calls_its_arguments_as_its_help_does(ferry, model, pictures):
    code, out, err = ferry("predict", "nomodel", pictures)
    assert (code, out) == (2, "")
    assert "Expected `MODEL` to be an existing file or folder, but got 'nomodel'." in err
    assert "Expected `IMAGES` to be existing files, but got 'none.png'." in ferry("predict", model, "none.png")[2]


def test_an_onnx_file_with_its_sidecar_predicts(tmp_path, pictures, ferry):
    weights = np.zeros((16, 7), np.float32)
    weights[:, 3] = 1  # the more light, the more of the class at index 3
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["in"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["out"])],
        "light",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "light.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    write_sidecar(path, EXPRESSIONS, size=4, channels=1, multiply=1 / 255, add=0)
    code, out, _ = ferry("predict", path, pictures, "--json")
    assert code == 0
    assert {entry["label"] for entry in json.loads(out)} == {EXPRESSIONS[3]}


def test_the_command_notes_what_it_could_not_read_and_ends_with_2(model, pictures, ferry):
    code, out, _ = ferry("predict", model, pictures)
    assert code == 0
    assert out.count("%") == 3
    (pictures / "1.png").write_bytes(b"no picture")
    code, out, _ = ferry("predict", model, pictures, "--json")
    assert code == 2
    found = json.loads(out)
    assert [bool(entry["note"]) for entry in found] == [False, True, False]
    assert ferry("predict", model, pictures / "none.png")[0] == 2
