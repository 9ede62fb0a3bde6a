from __future__ import annotations

import pytest
import torch
import torchvision
from ferry.common.errors import UserError
from ferry.networks import (
    Architecture,
    build_classifier,
    build_encoder,
    convert_state_dict,
    load_classifier,
    load_encoder,
)
from safetensors.torch import save_file

from .conftest import small

ENCODER = build_encoder(small(channels=3, stem="imagenet"), 5)
STATE = ENCODER.state_dict()
ARCHITECTURE = ENCODER.architecture


def prefixed(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[key], other[key]) for key in other)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.backbone.", "odd_name."])
def test_wrappers_and_prefixes_are_found(tmp_path, wrapper, prefix):
    value = {**prefixed(prefix), "projector.0.weight": torch.ones(2, 2)}
    torch.save({wrapper: value, "epoch": 3} if wrapper else value, tmp_path / "w.pt")
    done = convert_state_dict(tmp_path / "w.pt", ARCHITECTURE)
    assert same(done.model, ENCODER)
    assert done.prefix == prefix
    assert len(done.loaded) == len(STATE)
    assert done.ignored == ("projector.0.weight",)
    assert "normalised" in str(done)
    assert "stem 'imagenet'" in str(done)


def test_torchvision_file_converts_whole(tmp_path):
    with torch.device("meta"):
        theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({key: torch.full_like(value, 0.5, device="cpu") for key, value in theirs.items()}, tmp_path / "w.pth")
    done = convert_state_dict(tmp_path / "w.pth", Architecture("resnet18", channels=3, input_size=64))
    assert done.ignored == ("fc.bias", "fc.weight")
    assert set(done.loaded) == theirs.keys() - {"fc.bias", "fc.weight"}


def test_conversion_saves_with_the_digest_of_the_file(tmp_path):
    torch.save(STATE, tmp_path / "w.pth")
    done = convert_state_dict(tmp_path / "w.pth", ARCHITECTURE)
    info = done.save(tmp_path / "m")
    assert (info.method, info.lineage) == ("converted", {"state_dict": done.digest})
    assert same(load_encoder(tmp_path / "m"), ENCODER)


def test_safetensors_and_files_without_batch_counters_are_taken(tmp_path):
    old = {key: value.clone() for key, value in STATE.items() if not key.endswith("num_batches_tracked")}
    save_file(old, tmp_path / "w.safetensors")
    assert same(convert_state_dict(tmp_path / "w.safetensors", ARCHITECTURE).model, ENCODER)


@pytest.mark.parametrize(
    "names",
    [
        ("fc", "weight_g", "weight_v"),
        ("head", "parametrizations.weight.original0", "parametrizations.weight.original1"),
    ],
)
def test_weight_normalised_heads_convert_in_both_spellings(tmp_path, names):
    word, magnitude, direction = names
    model = build_classifier(small(channels=3, stem="imagenet", head="weight_norm"), ("a", "b", "c"), seed=2).eval()
    state = dict(prefixed("encoder.", model.encoder.state_dict()))
    state[f"{word}.{magnitude}"] = model.head.parametrizations.weight.original0
    state[f"{word}.{direction}"] = model.head.parametrizations.weight.original1
    state[f"{word}.bias"] = model.head.bias
    torch.save(state, tmp_path / "w.pt")
    done = convert_state_dict(tmp_path / "w.pt", model.architecture, classes=("a", "b", "c"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(done.model(images), model(images))
    assert done.ignored == ()


def test_linear_head_converts_with_its_class_names(tmp_path):
    state = {**prefixed("module."), "module.fc.weight": torch.randn(2, 32), "module.fc.bias": torch.randn(2)}
    torch.save(state, tmp_path / "w.pt")
    done = convert_state_dict(tmp_path / "w.pt", ARCHITECTURE, classes=("sad", "happy"))
    done.save(tmp_path / "m")
    loaded = load_classifier(tmp_path / "m", ("sad", "happy"))
    assert torch.equal(loaded.head.weight, state["module.fc.weight"])
    with pytest.raises(UserError, match=r"\[3, 32\].*\[2, 32\]"):
        convert_state_dict(tmp_path / "w.pt", ARCHITECTURE, classes=("a", "b", "c"))
    with pytest.raises(UserError, match="weight_norm head"):
        convert_state_dict(
            tmp_path / "w.pt", small(channels=3, stem="imagenet", head="weight_norm"), classes=("a", "b")
        )
    with pytest.raises(UserError, match="bottleneck"):
        convert_state_dict(tmp_path / "w.pt", small(channels=3, stem="imagenet", bottleneck=4), classes=("a", "b"))


def test_less_than_the_whole_backbone_is_refused(tmp_path):
    torch.save({key: value for key, value in STATE.items() if "layer3" not in key}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"missing layer3\.0\.conv1\.weight.*Nothing was loaded"):
        convert_state_dict(tmp_path / "w.pt", ARCHITECTURE)


def test_deeper_and_wider_networks_are_refused(tmp_path):
    torch.save(build_encoder(small(name="resnet18", channels=3, stem="imagenet"), 0).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"surplus layer1\.1.*deeper"):
        convert_state_dict(tmp_path / "w.pt", ARCHITECTURE)
    torch.save(STATE, tmp_path / "v.pt")
    with pytest.raises(UserError, match=r"width 8.*of shape \[4, 3, 7, 7\] instead of \[8, 3, 7, 7\]"):
        convert_state_dict(tmp_path / "v.pt", small(width=8, channels=3, stem="imagenet"))


def test_colour_kernels_serve_grey_images_only_on_request(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    grey = small(stem="imagenet")
    with pytest.raises(UserError, match="sum_channels=True"):
        convert_state_dict(tmp_path / "w.pt", grey)
    done = convert_state_dict(tmp_path / "w.pt", grey, sum_channels=True)
    image = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(done.model(image), ENCODER.eval()(image.expand(-1, 3, -1, -1)))
    assert "summed" in str(done)


def test_two_backbones_need_a_prefix(tmp_path):
    torch.save(
        {**prefixed("student."), **prefixed("teacher.", {k: v + 1 for k, v in STATE.items()})}, tmp_path / "w.pt"
    )
    with pytest.raises(UserError, match=r"prefix.*student\.', 'teacher\."):
        convert_state_dict(tmp_path / "w.pt", ARCHITECTURE)
    assert same(convert_state_dict(tmp_path / "w.pt", ARCHITECTURE, prefix="student.").model, ENCODER)


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the file ran')",))


def test_code_in_a_pickle_never_runs(tmp_path):
    torch.save({"state_dict": STATE, "hyper": Harmful()}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"nothing but tensors, but got 'a pickle that calls .*exec'"):
        convert_state_dict(tmp_path / "w.ckpt", ARCHITECTURE)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda path: torch.save([1, 2], path), "state dict of tensors"),
        (lambda path: torch.save({"a": torch.ones(1)}, path), r"names like layer1\.0\.conv1\.weight"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "nothing but tensors"),
        (lambda path: path.write_bytes(b""), "nothing but tensors"),
        (lambda path: None, "existing file"),
    ],
)
def test_files_that_are_no_state_dict_are_refused(tmp_path, make, part):
    make(tmp_path / "w.pt")
    with pytest.raises(UserError, match=part):
        convert_state_dict(tmp_path / "w.pt", ARCHITECTURE)
