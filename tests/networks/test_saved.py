from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal

import pytest
import torch
from ferry.common.errors import RetryableError, UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import (
    Normalisation,
    build_classifier,
    build_encoder,
    content_digest,
    inference,
    is_saved_model,
    load_classifier,
    load_encoder,
    load_info,
    save_model,
    saved,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .conftest import small, warmed


@pytest.fixture
def folder(classifier, tmp_path):
    save_model(classifier, tmp_path / "model", method="supervised", lineage={"faces": "12ab"})
    return tmp_path / "model"


def change_info(folder, **changes):
    value = json.loads((folder / "model.json").read_text())
    value.update(changes)
    (folder / "model.json").write_text(json.dumps(value))


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("head", ["linear", "weight_norm"])
@pytest.mark.parametrize("bottleneck", [0, 8])
def test_saved_and_loaded_classifier_is_equal_bit_for_bit(head, bottleneck, tmp_path, pixels):
    normalisation = Normalisation((0.1234567890123,), (1 / 3,))
    model = warmed(build_classifier(small(head=head, bottleneck=bottleneck), EXPRESSIONS, normalisation, seed=1))
    info = save_model(
        model.to(memory_format=torch.channels_last), tmp_path / "m", method="clup", lineage={"source": "f00"}
    )
    loaded = load_classifier(tmp_path / "m", EXPRESSIONS)
    assert same(model, loaded)
    assert not loaded.training
    assert loaded.info == info == load_info(tmp_path / "m")
    assert (info.method, info.lineage, info.classes) == ("clup", {"source": "f00"}, EXPRESSIONS)
    assert loaded.normalisation == normalisation
    assert torch.equal(inference(model, pixels).logits, inference(loaded, pixels).logits)


def test_encoder_loads_from_its_own_folder_and_from_a_classifier(classifier, folder, tmp_path):
    save_model(classifier.encoder, tmp_path / "encoder", method="swav", lineage={})
    alone, inside = load_encoder(tmp_path / "encoder"), load_encoder(folder)
    assert same(alone, classifier.encoder)
    assert same(inside, classifier.encoder)
    assert alone.info.digest == inside.info.digest == content_digest(classifier.encoder)
    assert alone.info.method == "swav"
    assert inside.info.lineage == {"faces": "12ab", "classifier": load_info(folder).digest}
    with pytest.raises(UserError, match=r"a classifier.*an encoder"):
        load_classifier(tmp_path / "encoder")


def test_digest_follows_what_the_model_computes_and_nothing_else(classifier, tmp_path):
    one = save_model(classifier, tmp_path / "a", method="x", lineage={"source": "1"}).digest
    assert save_model(classifier, tmp_path / "b", method="y", lineage={}).digest == one
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    assert save_model(classifier, tmp_path / "c", method="x", lineage={}).digest != one
    with torch.no_grad():
        classifier.head.bias[0] -= 1e-6
    classifier.info = dataclasses.replace(classifier.info, normalisation=Normalisation((0.4,), (0.25,)))
    assert save_model(classifier, tmp_path / "d", method="x", lineage={}).digest != one


def test_other_users_can_read_what_the_umask_lets_them(classifier, tmp_path):
    before = os.umask(0o002)
    try:
        save_model(classifier, tmp_path / "m", method="clup", lineage={}, extra={"a.json": {}, "b.bin": b"x"})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()}
    assert modes == dict.fromkeys(("model.safetensors", "model.json", "a.json", "b.bin"), 0o664)


def test_extra_files_are_written_with_the_model(classifier, tmp_path):
    (tmp_path / "card.md").write_text("text")
    extra = {"history.json": [{"step": 1, "loss": float("nan")}], "card.md": tmp_path / "card.md", "raw.bin": b"1"}
    save_model(classifier, tmp_path / "m", method="x", lineage={}, extra=extra)
    assert json.loads((tmp_path / "m" / "history.json").read_text()) == [{"step": 1, "loss": None}]
    assert (tmp_path / "m" / "card.md").read_text() == "text"
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == sorted(
        ["model.json", "model.safetensors", *extra]
    )


@pytest.mark.parametrize("name", ["model.json", "../up.json", "a/b.json", ".hidden"])
def test_extra_files_may_not_leave_the_folder_or_replace_the_model(classifier, tmp_path, name):
    with pytest.raises(UserError, match="plain file names"):
        save_model(classifier, tmp_path / "m", method="x", lineage={}, extra={name: {}})


def test_what_the_disk_refuses_is_told_by_the_systems_error(classifier, folder):
    before, limit = load_info(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_model(classifier, folder, method="clup", lineage={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert load_info(folder) == before


def test_a_full_disk_is_worth_a_retry(classifier, folder, monkeypatch):
    def full(*given, **named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(saved, "save_file", full)
    with pytest.raises(RetryableError, match="Expected `disk` to be large enough"):
        save_model(classifier, folder, method="clup", lineage={})
    assert load_classifier(folder).classes == EXPRESSIONS


def test_failed_saving_leaves_the_former_model(classifier, folder):
    before = load_info(folder)
    with torch.no_grad():
        classifier.head.bias[0] = float("nan")
    with pytest.raises(UserError, match=r"NaN.*head\.bias"):
        save_model(classifier, folder, method="y", lineage={})
    with pytest.raises(TypeError):
        save_model(build_encoder(small(), 0), folder, method="y", lineage={}, extra={"a.json": object()})
    assert load_info(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path, name):
    path = tmp_path / name
    torch.save({"a": torch.ones(1)}, path)
    for place in (path, tmp_path):
        with pytest.raises(UserError, match="convert_state_dict") as error:
            load_classifier(place)
        assert str(path) in str(error.value)


def test_pickle_under_the_name_of_the_weights_is_not_opened(folder):
    torch.save({"a": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="a pickle"):
        load_classifier(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_damaged(folder, keep):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(UserError, match="undamaged"):
        load_classifier(folder)


def test_one_flipped_bit_is_noticed(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    for load in (load_classifier, load_encoder):
        with pytest.raises(UserError, match="digest"):
            load(folder)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: t.pop("head.bias"), r"missing head\.bias"),
        (lambda t: t.update(more=torch.ones(1)), "surplus more"),
        (lambda t: t.update({"head.bias": torch.ones(8)}), r"head\.bias of shape \[8\] instead of \[7\]"),
        (lambda t: t.update({"head.bias": torch.ones(7).half()}), r"head\.bias of type torch\.float16"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, part):
    tensors = load_file(folder / "model.safetensors")
    tensors = {key: value.clone() for key, value in tensors.items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=part):
        load_classifier(folder)


def test_other_stem_in_the_description_cannot_load_silently(tmp_path):
    save_model(build_encoder(small(stem="imagenet"), 0), tmp_path / "m", method="x", lineage={})
    architecture = json.loads((tmp_path / "m" / "model.json").read_text())["architecture"]
    change_info(tmp_path / "m", architecture={**architecture, "stem": "clup"})
    with pytest.raises(UserError, match="digest"):
        load_encoder(tmp_path / "m")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format": 2}, r"version 1.*2.*newer Ferry"),
        ({"format": None}, "not a Ferry model"),
        ({"classes": None}, "classifiers only"),
        ({"clases": []}, "Did you mean 'classes'?"),
        ({"kind": "clasifier"}, "Did you mean 'classifier'?"),
        ({"architecture": {"name": "resnet11"}}, r"Did you mean 'resnet1\d'?"),
    ],
)
def test_wrong_descriptions_are_refused(folder, changes, part):
    change_info(folder, **changes)
    with pytest.raises(UserError, match=part):
        load_classifier(folder)


def test_what_is_no_model_is_refused(folder, tmp_path):
    (folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="valid JSON"):
        load_info(folder)
    (folder / "model.json").write_text("[]")
    with pytest.raises(UserError, match="JSON object"):
        load_info(folder)
    with pytest.raises(UserError, match="nothing there"):
        load_classifier(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no model\.safetensors and no model\.json"):
        load_classifier(tmp_path / "empty")
    assert not is_saved_model(tmp_path / "empty")


def test_other_classes_are_refused_with_both_lists_and_the_difference(folder):
    with pytest.raises(UserError) as error:
        load_classifier(folder, ("anger", "contempt"))
    text = str(error.value)
    assert "['anger', 'contempt']" in text
    assert str(list(EXPRESSIONS)) in text
    assert "Only the model has ['disgust', 'fear', 'happiness', 'neutral', 'sadness', 'surprise']" in text
    assert "only the caller has ['contempt']" in text


@pytest.mark.parametrize("head", ["linear", "weight_norm"])
def test_other_order_is_refused_or_moves_the_rows_on_request(head, tmp_path, pixels):
    model = build_classifier(small(head=head), EXPRESSIONS, seed=1).eval()
    with torch.no_grad():
        model.head.bias.copy_(torch.arange(7.0))
    folder, wanted = tmp_path / "m", ("surprise", "anger", "neutral", "fear", "disgust", "sadness", "happiness")
    save_model(model, folder, method="x", lineage={})
    with pytest.raises(UserError, match="reorder=True"):
        load_classifier(folder, wanted)
    moved = load_classifier(folder, wanted, reorder=True)
    before, after = inference(model, pixels).logits, inference(moved, pixels).logits
    for column, name in enumerate(wanted):
        assert torch.equal(after[:, column], before[:, EXPRESSIONS.index(name)])
    assert moved.classes == wanted
    assert moved.info.digest != load_info(folder).digest
    save_model(moved, tmp_path / "n", method="x", lineage={})
    assert same(load_classifier(tmp_path / "n", wanted), moved)
    assert load_classifier(folder, EXPRESSIONS, reorder=True).info == load_info(folder)
