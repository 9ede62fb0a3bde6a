from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from ferry.common.errors import UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import (
    FerrySource,
    SourceModel,
    build_classifier,
    convert_state_dict,
    inference,
    load_source,
    pack_foreign,
    save_model,
    write_sidecar,
)
from onnx import TensorProto, helper, numpy_helper

from .conftest import small, warmed

FER2013_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
MEANING = dict(
    zip(FER2013_ORDER, ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"), strict=True)
)
SIZE = 4


def picker(path, outputs=7, softmax="", batch="N", layout="NCHW", channels=1):
    """Writes an ONNX model whose output k is the brightness of pixel k of the (last) channel."""
    flat = channels * SIZE * SIZE
    weights = np.zeros((flat, outputs), np.float32)
    for k in range(outputs):
        weights[k if layout == "NCHW" else k * channels, k] = 1
    shape = [batch, channels, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, channels]
    last = "scores" if softmax else "out"
    nodes = [
        helper.make_node("Relu", ["in"], ["inner"]),
        helper.make_node("Flatten", ["inner"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], [last]),
    ]
    if softmax:
        nodes.append(helper.make_node(softmax, ["scores"], ["out"], axis=1))
    graph = helper.make_graph(
        nodes,
        "picker",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def bright(pixel, channels=1, size=SIZE):
    image = np.zeros((1, channels, size, size), np.uint8)
    image[:, :, pixel // size, pixel % size] = 255
    return image


def describe_picker(model, classes=FER2013_ORDER, **changes):
    settings = {"size": SIZE, "channels": 1, "multiply": 1 / 255, "add": 0, **changes}
    return write_sidecar(model, classes, **settings)


def test_outputs_are_permuted_from_the_order_of_the_file_into_the_canonical_one(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"))
    source = load_source(tmp_path / "m.onnx")
    assert source.classes == EXPRESSIONS
    images = np.concatenate([bright(k) for k in range(7)])
    named = [source.classes[k] for k in source.outputs(images).predictions().tolist()]
    assert named == [MEANING[name] for name in FER2013_ORDER]
    # Read in the order of the file, as other tools do, three of the seven expressions would be taken for another.
    naive = [EXPRESSIONS[k] for k in range(7)]
    assert sum(one != other for one, other in zip(named, naive, strict=True)) == 3


@pytest.mark.slow
def test_a_foreign_model_leaves_nothing_in_the_home_of_the_user(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"))
    code = f"from ferry.networks import load_source; load_source({str(tmp_path / 'm.onnx')!r})"
    (tmp_path / "home").mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run([sys.executable, "-c", code], env={**environment, "HOME": str(tmp_path / "home")}, check=True)
    assert not [*(tmp_path / "home").rglob("*onnxruntime*")]


def test_features_are_the_logits_where_the_model_exposes_none(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"))
    source = load_source(tmp_path / "m.onnx")
    outputs = source.outputs(bright(2))
    assert outputs.feature_kind == source.feature_kind == "logits"
    assert torch.equal(outputs.features, outputs.logits)
    assert source.classifier is None
    assert isinstance(source, SourceModel)


def test_probabilities_become_log_probabilities_and_zero_stays_finite(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx", softmax="Softmax"), output="probabilities", multiply=1.0)
    logits = load_source(tmp_path / "m.onnx").outputs(bright(0)).logits
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(torch.softmax(logits, 1)[0], torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
    describe_picker(picker(tmp_path / "l.onnx", softmax="LogSoftmax"), output="log_probabilities")
    logits = load_source(tmp_path / "l.onnx").outputs(bright(0)).logits
    expected = torch.log_softmax(torch.tensor([1.0, 0, 0, 0, 0, 0, 0]), 0)
    torch.testing.assert_close(logits[0], expected)


def test_output_kind_that_the_numbers_contradict_is_refused_or_warned_about(tmp_path, caplog):
    describe_picker(picker(tmp_path / "m.onnx"), output="probabilities")
    with pytest.raises(UserError, match=r"sum to 1.*\"output\": \"logits\""):
        load_source(tmp_path / "m.onnx")
    describe_picker(picker(tmp_path / "p.onnx", softmax="Softmax"))
    with caplog.at_level(logging.WARNING, "ferry"):
        load_source(tmp_path / "p.onnx")
    assert "look like probabilities" in caplog.text


def test_null_leaves_an_output_out_and_contempt_takes_its_alphabetical_place(tmp_path):
    classes = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", None]
    describe_picker(picker(tmp_path / "m.onnx", outputs=9), classes)
    source = load_source(tmp_path / "m.onnx")
    assert source.classes == ("anger", "contempt", *EXPRESSIONS[1:])
    logits = source.outputs(bright(7)).logits
    assert logits.shape == (1, 8)
    assert logits.argmax().item() == 1
    assert load_source(tmp_path / "m.onnx").outputs(bright(8)).logits.max() == 0


@pytest.mark.parametrize(("layout", "channels"), [("NCHW", 3), ("NHWC", 1), ("NHWC", 3)])
def test_layouts_and_channels(tmp_path, layout, channels):
    describe_picker(picker(tmp_path / "m.onnx", layout=layout, channels=channels), layout=layout, channels=channels)
    images = np.concatenate([bright(k) for k in range(7)])  # grey, repeated where the model wants colour
    source = load_source(tmp_path / "m.onnx")
    assert source.outputs(images).predictions().tolist() == [EXPRESSIONS.index(MEANING[n]) for n in FER2013_ORDER]


def test_scaling_is_per_channel_in_the_order_of_the_model(tmp_path):
    path = picker(tmp_path / "m.onnx", layout="NHWC", channels=3)
    describe_picker(path, layout="NHWC", channels=3, multiply=[2.0, 1, 1], add=[10.0, 0, 0], colour="BGR")
    image = np.zeros((1, 3, SIZE, SIZE), np.uint8)
    image[0, 2, 0, 0] = 5  # blue of the first pixel is the first number that the model sees
    logits = load_source(path).outputs(image).logits
    assert logits[0, EXPRESSIONS.index("anger")] == 2 * 5 + 10
    assert logits[0, EXPRESSIONS.index("disgust")] == 10


def test_images_of_another_size_are_resized(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"))
    source = load_source(tmp_path / "m.onnx")
    large = np.kron(bright(3)[0, 0], np.ones((8, 8), np.uint8))[None, None]
    assert source.outputs(large).predictions().tolist() == [EXPRESSIONS.index("happiness")]
    assert source.outputs(large.repeat(3, 1)).predictions().tolist() == [EXPRESSIONS.index("happiness")]


def test_no_images_and_small_batches_and_models_of_fixed_batch(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"))
    describe_picker(picker(tmp_path / "f.onnx", batch=4))
    free, fixed = load_source(tmp_path / "m.onnx"), load_source(tmp_path / "f.onnx")
    images = np.random.default_rng(0).integers(0, 256, (9, 1, SIZE, SIZE), dtype=np.uint8)
    whole = free.outputs(images).logits
    assert torch.equal(free.outputs(images, batch_size=2).logits, whole)
    assert torch.equal(fixed.outputs(images, batch_size=5).logits, whole)
    assert free.outputs(images[:0]).logits.shape == (0, 7)
    assert free.outputs(images[:0]).features.shape == (0, 7)


@pytest.mark.parametrize("without_onnx", [False, True])
def test_tensor_inside_the_graph_serves_as_features(tmp_path, monkeypatch, without_onnx):
    if without_onnx:
        monkeypatch.setitem(sys.modules, "onnx", None)
    describe_picker(picker(tmp_path / "m.onnx"), features_output="flat")
    outputs = load_source(tmp_path / "m.onnx").outputs(bright(2))
    assert outputs.feature_kind == "features"
    assert torch.equal(outputs.features, torch.from_numpy(bright(2)).flatten(1) / 255)
    describe_picker(tmp_path / "m.onnx", features_output="inner")
    outputs = load_source(tmp_path / "m.onnx").outputs(bright(2))
    torch.testing.assert_close(outputs.features, torch.tensor([[1 / 16]]))
    describe_picker(tmp_path / "m.onnx", features_output="innner")
    with pytest.raises(UserError, match="features_output") as error:
        load_source(tmp_path / "m.onnx")
    assert without_onnx or "out, flat" in str(error.value)


def exported(model, path):
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model.forward_features(x)

    example = torch.zeros(2, 1, 16, 16)
    if path.suffix == ".onnx":
        torch.onnx.export(
            Both().eval(),
            (example,),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["logits", "features"],
            dynamic_axes={name: {0: "N"} for name in ("images", "logits", "features")},
        )
    else:
        torch.jit.trace(Both().eval(), (example,)).save(str(path))
    return path


@pytest.mark.parametrize(("suffix", "names"), [(".onnx", ("logits", "features")), (".pt", ("0", "1"))])
def test_exported_network_equals_torch(tmp_path, pixels, suffix, names):
    model = warmed(build_classifier(small(bottleneck=8), EXPRESSIONS, seed=3)).eval()
    path = exported(model, tmp_path / f"m{suffix}")
    settings = {"size": 16, "channels": 1, "multiply": 1 / (255 * 0.25), "add": -2.0}
    write_sidecar(path, EXPRESSIONS, logits_output=names[0], features_output=names[1], **settings)
    outputs, expected = load_source(path, trust=True).outputs(pixels, batch_size=4), inference(model, pixels)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.features, expected.features, rtol=1e-5, atol=1e-5)
    assert outputs.feature_kind == "features"


def scripted(path):
    class Picker(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :7]

    torch.jit.script(Picker()).save(str(path))
    return path


def test_torchscript_needs_trust_and_wrong_images_are_explained(tmp_path):
    path = scripted(tmp_path / "m.pt")
    describe_picker(path)
    with pytest.raises(UserError, match=r"trust.*runs code.*trust=True"):
        load_source(path)
    source = load_source(path, trust=True)
    assert source.outputs(bright(6)).predictions().tolist() == [EXPRESSIONS.index("neutral")]
    describe_picker(path, size=2)
    with pytest.raises(UserError, match="classes"):
        load_source(path, trust=True)
    with pytest.raises(UserError, match="load_source"):
        convert_state_dict(path, small())


def test_missing_sidecar_shows_one_to_be_edited_with_the_shapes_of_the_model(tmp_path):
    path = picker(tmp_path / "m.onnx", layout="NHWC", channels=3)
    with pytest.raises(UserError) as error:
        load_source(path)
    text = str(error.value)
    assert str(tmp_path / "m.onnx.json") in text
    assert "{'in': ['N', 4, 4, 3]}" in text
    assert "{'out': ['N', 7]}" in text
    template = json.loads(text[text.index("{\n") :])
    assert template["input"] | {"scale": None} == {"size": 4, "channels": 3, "layout": "NHWC", "scale": None}
    (tmp_path / "m.onnx.json").write_text(json.dumps(template))
    with pytest.raises(UserError, match="scale"):
        load_source(path)
    template["input"]["scale"] = {"multiply": 0.0039, "add": 0}
    (tmp_path / "m.onnx.json").write_text(json.dumps(template))
    with pytest.raises(UserError, match="question mark"):
        load_source(path)
    template["classes"] = list(FER2013_ORDER)
    (tmp_path / "m.onnx.json").write_text(json.dumps(template))
    assert load_source(path).classes == EXPRESSIONS


def test_missing_sidecar_of_torchscript_does_not_open_the_file(tmp_path):
    with pytest.raises(UserError, match=r"sidecar.*TorchScript does not name"):
        load_source(scripted(tmp_path / "m.pt"))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda s: s.update(format=9), r"format.*version 1.*9"),
        (lambda s: s.update(ouput="logits"), "Did you mean 'output'?"),
        (lambda s: s.update(output="logit"), "Did you mean 'logits'?"),
        (lambda s: s.update(classes=7), "a list of names"),
        (lambda s: s.update(classes=[0, 1, 2, 3, 4, 5, 6]), "not numbers"),
        (lambda s: s.update(classes=["angry", "anger", *FER2013_ORDER[2:]]), r"More than one means \['anger'\]"),
        (lambda s: s.update(classes=["angryy", *FER2013_ORDER[1:]]), "Did you mean 'angry'?"),
        (lambda s: s.update(classes=["unknown", *FER2013_ORDER[1:]]), "null"),
        (lambda s: s.update(classes=list(FER2013_ORDER[:6])), r"7 names, one per output"),
        (lambda s: s.update(file="other.onnx"), "existing file"),
        (lambda s: s.update(sha256="0" * 64), "sha256"),
        (lambda s: s.pop("input"), "input"),
        (lambda s: s["input"].pop("size"), r"input\.size"),
        (lambda s: s["input"].update(channels=2), r"input\.channels"),
        (lambda s: s["input"].update(layout="CHWN"), "layout"),
        (lambda s: s["input"].update(scale=1), r"input\.scale"),
        (lambda s: s["input"].update(scale={"multiply": [1, 1], "add": [0]}), r"scale\.multiply"),
        (lambda s: s["input"].update(scale={"multiply": [0], "add": [0]}), "other than 0"),
        (lambda s: s["input"].update(size=5), "size, channels and layout"),
        (lambda s: s.update(logits_output="logits"), r"logits_output.*out"),
    ],
)
def test_wrong_sidecars_are_refused(tmp_path, change, part):
    path = picker(tmp_path / "m.onnx")
    sidecar = describe_picker(path)
    value = json.loads(sidecar.read_text())
    change(value)
    sidecar.write_text(json.dumps(value))
    with pytest.raises(UserError, match=part):
        load_source(path)


def test_damaged_onnx_is_refused(tmp_path):
    path = picker(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:200])
    describe_picker(path)
    with pytest.raises(UserError, match=r"m\.onnx.*onnxruntime can open"):
        load_source(path)


def test_packed_model_moves_and_keeps_its_digest(tmp_path):
    describe_picker(picker(tmp_path / "m.onnx"), features_output="flat", path=tmp_path / "elsewhere.json")
    source = load_source(tmp_path / "elsewhere.json")
    pack_foreign(source, tmp_path / "packed")
    (tmp_path / "packed").rename(tmp_path / "moved")
    (tmp_path / "m.onnx").unlink()
    moved = load_source(tmp_path / "moved")
    assert moved.digest == source.digest
    assert load_source(tmp_path / "moved" / "m.onnx").digest == source.digest
    assert torch.equal(moved.outputs(bright(1)).features, torch.from_numpy(bright(1)).flatten(1) / 255)


def test_digest_changes_with_the_meaning_of_the_outputs(tmp_path):
    path = picker(tmp_path / "m.onnx")
    describe_picker(path)
    one = load_source(path).digest
    describe_picker(path, note="a remark")
    assert load_source(path).digest == one
    describe_picker(path, classes=FER2013_ORDER[::-1])
    assert load_source(path).digest != one


def test_ferry_classifier_is_a_source_model(tmp_path, classifier, pixels):
    info = save_model(classifier, tmp_path / "m", method="x", lineage={})
    source = load_source(tmp_path / "m")
    assert isinstance(source, FerrySource)
    assert isinstance(source, SourceModel)
    assert (source.classes, source.channels, source.input_size) == (EXPRESSIONS, 1, 16)
    assert source.digest == info.digest == FerrySource(classifier).digest
    assert torch.equal(source.outputs(pixels).logits, inference(classifier, pixels).logits)
    assert torch.equal(source.outputs(pixels).features, inference(source.classifier, pixels).features)
    assert source.outputs(np.zeros((2, 3, 20, 20), np.uint8)).logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("absent", "existing file or folder"),
        ("m.h5", "ONNX"),
        ("w.pth", "convert_state_dict"),
        ("w.safetensors", "classes=names"),
    ],
)
def test_other_files_are_refused_with_advice(tmp_path, name, part):
    if name == "w.pth":
        torch.save({}, tmp_path / name)
    elif name != "absent":
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match=part):
        load_source(tmp_path / name)


def test_folder_without_a_description_lists_what_is_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt"):
        load_source(tmp_path)
    describe_picker(picker(tmp_path / "m.onnx"))
    assert load_source(tmp_path).classes == EXPRESSIONS
