from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.networks import evaluation_mode, fit_pixels, inference, normalise
from ferry.networks.outputs import run_batches
from PIL import Image


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_outputs_equal_one_forward_pass_in_evaluation_mode(classifier, pixels):
    outputs = inference(classifier, pixels, batch_size=4)
    with torch.no_grad():
        logits, features = classifier.eval().forward_features(
            normalise(torch.from_numpy(pixels), classifier.normalisation)
        )
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.features, features, rtol=1e-4, atol=1e-5)
    assert outputs.feature_kind == "features"
    assert torch.equal(outputs.predictions(), outputs.logits.argmax(1))
    torch.testing.assert_close(outputs.probabilities().sum(1), torch.ones(11))


def test_modes_statistics_and_the_very_tensors_are_as_before(classifier, pixels):
    classifier.train()
    classifier.encoder.layer2.eval()
    classifier.head.eval()
    modes = {name: part.training for name, part in classifier.named_modules()}
    state, places = (
        snapshot(classifier),
        {name: (p.data_ptr(), p.stride()) for name, p in classifier.named_parameters()},
    )
    inference(classifier, pixels)
    assert {name: part.training for name, part in classifier.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in classifier.state_dict().items())
    assert {name: (p.data_ptr(), p.stride()) for name, p in classifier.named_parameters()} == places


def test_modes_are_restored_after_an_error(classifier):
    classifier.train()

    def fail():
        with evaluation_mode(classifier):
            assert not classifier.encoder.training
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(part.training for part in classifier.modules())


def test_training_goes_on_after_inference(classifier, pixels):
    inference(classifier, pixels)
    classifier.train()(torch.randn(4, 1, 16, 16)).sum().backward()
    assert classifier.encoder.conv1.weight.grad is not None


def test_it_is_deterministic_and_takes_arrays_tensors_and_read_only_maps(classifier, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    one, two, three = (inference(classifier, item).logits for item in (pixels, torch.from_numpy(pixels), mapped))
    assert torch.equal(one, two)
    assert torch.equal(one, three)


def test_no_images_give_empty_outputs_of_the_right_width(classifier, pixels):
    outputs = inference(classifier, pixels[:0])
    assert outputs.logits.shape == (0, 7)
    assert outputs.features.shape == (0, 8)
    assert len(outputs) == 0


def test_bfloat16_is_near_and_comes_back_as_float32(classifier, pixels):
    exact, rough = inference(classifier, pixels), inference(classifier, pixels, precision="bf16")
    assert rough.logits.dtype == torch.float32
    assert not torch.equal(exact.logits, rough.logits)
    torch.testing.assert_close(exact.logits, rough.logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda p: p.astype(np.float32), "float32"),
        (lambda p: p[:, 0], r"\(11, 16, 16\)"),
        (lambda p: p.repeat(3, 1), r"\[N, 1, 16, 16\]"),
        (lambda p: p[:, :, :8], r"\(11, 1, 8, 16\)"),
    ],
)
def test_wrong_pixels_are_refused_with_what_the_model_takes(classifier, pixels, change, part):
    with pytest.raises(UserError, match=part):
        inference(classifier, change(pixels))


def test_other_sizes_fit_only_on_request(classifier):
    large = np.zeros((2, 3, 20, 30), dtype=np.uint8)
    assert inference(classifier, large, fit=True).logits.shape == (2, 7)


def test_non_finite_outputs_are_an_error_with_the_image(classifier, pixels):
    def run(batch):
        logits = batch.float().flatten(1)
        return logits.masked_fill(logits == 9, float("nan")), logits

    numbered = np.zeros((10, 1, 1, 1), dtype=np.uint8)
    numbered[7] = 9
    with pytest.raises(UserError, match=r"finite.*index 7"):
        run_batches(numbered, 4, run, 1, 1)
    with torch.no_grad():
        classifier.head.bias[2] = float("nan")
    with pytest.raises(UserError, match="NaN"):
        inference(classifier, pixels)


@pytest.mark.parametrize(("field", "value"), [("device", "gpu7"), ("precision", "fp8"), ("batch_size", 0)])
def test_wrong_settings_are_named(classifier, pixels, field, value):
    with pytest.raises(UserError, match=field):
        inference(classifier, pixels, **{field: value})


def test_resizing_equals_pillow_within_a_grey_level():
    image = np.random.default_rng(1).integers(0, 256, (37, 53), dtype=np.uint8)
    ours = fit_pixels(torch.from_numpy(image)[None, None], 24, 1)[0, 0].numpy().astype(int)
    theirs = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_channels_convert_as_in_pillow_and_fitting_images_are_untouched():
    image = np.random.default_rng(2).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    ours = fit_pixels(torch.from_numpy(image).permute(2, 0, 1)[None], 6, 1)[0, 0].numpy().astype(int)
    assert np.abs(ours - np.asarray(Image.fromarray(image).convert("L")).astype(int)).max() <= 1
    grey = torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8)
    assert torch.equal(fit_pixels(grey, 6, 1), grey)
    assert torch.equal(fit_pixels(grey, 6, 3), grey.repeat(1, 3, 1, 1))
