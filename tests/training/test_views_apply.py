"""Views with given parameters equal torchvision's functions, sample by sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ferry.common.errors import UserError
from ferry.training.views import (
    ViewParameters,
    ViewSpec,
    apply_views,
    colour,
    evaluation,
    finetune,
    geometry,
    sample_views,
)
from ferry.training.views import apply as module
from torchvision.transforms.v2 import functional as reference

BILINEAR = reference.InterpolationMode.BILINEAR
COLOUR = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
EVERYTHING = ViewSpec(
    20, (0.1, 1.0), flip=0.5, jitter=0.8, grayscale=0.3, blur=0.5, blur_reference=20, **COLOUR
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, channels: int = 3, height: int = 24, width: int = 24, seed: int = 1) -> torch.Tensor:
    coarse = torch.rand((n, channels, 5, 5), generator=seeded(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    fine = fine + 0.1 * torch.randn(fine.shape, generator=seeded(seed + 1))
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8)


def reference_view(image: torch.Tensor, parameters: ViewParameters, row: int, spec: ViewSpec) -> torch.Tensor:
    """One sample through torchvision's functions with the drawn parameters."""
    result = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    top, left, height, width = parameters.box[row].tolist()
    result = reference.resized_crop(result, top, left, height, width, [spec.size, spec.size], BILINEAR, antialias=True)
    if parameters.flip[row]:
        result = reference.horizontal_flip(result)
    if parameters.jitter[row]:
        functions = (
            reference.adjust_brightness,
            reference.adjust_contrast,
            reference.adjust_saturation,
            reference.adjust_hue,
        )
        factors = parameters.factors[row].tolist()
        for kind in parameters.order[row].tolist():
            if kind < 2 or len(result) == 3:
                result = functions[kind](result, factors[kind])
    if parameters.grayscale[row] and len(result) == 3:
        result = reference.rgb_to_grayscale(result, num_output_channels=3)
    if parameters.blur[row]:
        kernel = 2 * spec.blur_radius + 1
        result = reference.gaussian_blur(result, [kernel, kernel], [float(parameters.sigma[row])] * 2)
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", [1, 12_000, 10**9])
def test_whole_chain_equals_torchvision_per_sample(channels, block, monkeypatch):
    monkeypatch.setattr(module, "_CPU_BLOCK", block)
    pixels = images(100, channels)
    parameters = sample_views(EVERYTHING, 100, 24, seeded())
    result = apply_views(pixels, parameters, EVERYTHING)
    assert result.dtype == torch.float32
    assert result.shape == (100, channels, 20, 20)
    expected = torch.stack([reference_view(pixels[row], parameters, row, EVERYTHING) for row in range(100)])
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 40), (40, 17), (96, 96), (9, 9)])
@pytest.mark.parametrize("size", [1, 7, 24, 48])
def test_crop_and_resize_equals_torchvision_with_antialiasing(height, width, size):
    spec = ViewSpec(size, scale=(0.05, 1.0))
    pixels = images(12, 3, height, width)
    parameters = sample_views(spec, 12, (height, width), seeded())
    result = apply_views(pixels, parameters, spec)
    for row in range(12):
        expected = reference_view(pixels[row], parameters, row, spec)
        torch.testing.assert_close(result[row], expected, atol=2e-6, rtol=0)


def test_whole_image_of_the_right_size_is_returned_bit_for_bit():
    pixels = images(5)
    result = apply_views(pixels, sample_views(evaluation(24), 5, 24, seeded()), evaluation(24))
    assert torch.equal((result * 255).round().to(torch.uint8), pixels)
    assert torch.equal(result, pixels.float() * (1.0 / 255.0))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.3, 0.9)])
def test_flip_mirrors_exactly_the_unflipped_view(scale):
    spec = ViewSpec(24, scale=scale, ratio=(1.0, 1.0), flip=0.5)
    pixels, parameters = images(20), sample_views(spec, 20, 24, seeded())
    assert 0 < int(parameters.flip.sum()) < 20
    straight = apply_views(pixels, replace(parameters, flip=torch.zeros(20, dtype=torch.bool)), spec)
    expected = torch.where(parameters.flip.view(-1, 1, 1, 1), straight.flip(-1), straight)
    torch.testing.assert_close(apply_views(pixels, parameters, spec), expected, atol=1e-6 * (scale[0] < 1), rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (colour.adjust_brightness, reference.adjust_brightness, (0.0, 0.3, 1.0, 1.8)),
        (colour.adjust_contrast, reference.adjust_contrast, (0.0, 0.3, 1.0, 1.8)),
        (colour.adjust_saturation, reference.adjust_saturation, (0.0, 0.3, 1.0, 1.8)),
        (colour.adjust_hue, reference.adjust_hue, (-0.5, -0.2, 0.0, 0.07, 0.5)),
    ],
)
def test_each_colour_operation_equals_torchvision(ours, theirs, factors):
    image = images(1)[0].float() / 255
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3).T  # grey, pure and mixed colours, ties
    image.view(3, -1)[:, :27] = corners
    planes = image.unsqueeze(1).repeat(1, len(factors), 1, 1)
    result = ours(planes, torch.tensor(factors))
    assert result is planes
    for row, factor in enumerate(factors):
        torch.testing.assert_close(result[:, row], theirs(image, factor), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sigma", [0.001, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("radius", [1, 6, 11])
def test_blur_equals_torchvision(sigma, radius):
    image = images(1, 3, 12, 12)[0].float() / 255
    planes = image.unsqueeze(1).clone()
    result = geometry.blur_planes(planes, torch.tensor([sigma]), geometry.blur_basis(12, radius, planes.device))
    kernel = 2 * radius + 1
    torch.testing.assert_close(
        result[:, 0], reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma]), atol=2e-6, rtol=0
    )


@pytest.mark.parametrize(
    "affine",
    [
        (0.0, 0.0, 0.0, 1.0, 0.0),
        (30.0, 0.0, 0.0, 1.0, 0.0),
        (0.0, 3.0, -2.0, 1.0, 0.0),
        (0.0, 0.0, 0.0, 1.3, 0.0),
        (-12.0, 2.0, 5.0, 0.8, 9.0),
    ],
)
def test_affine_equals_torchvision(affine):
    angle, right, down, zoom, shear = affine
    image = images(1, 3, 18, 26)[0].float() / 255
    result = geometry.affine_images(image.unsqueeze(0), torch.tensor([affine]), "zeros")[0]
    expected = reference.affine(image, angle, [right, down], zoom, [shear, 0.0], interpolation=BILINEAR)
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def test_border_padding_continues_the_edge():
    image = images(1, 1, 16, 16)[0].float() / 255
    result = geometry.affine_images(image.unsqueeze(0), torch.tensor([[20.0, 3.0, 2.0, 0.8, 4.0]]), "border")[0]
    padded = torch.nn.functional.pad(image.unsqueeze(0), [20] * 4, mode="replicate")[0]
    expected = reference.affine(padded, 20.0, [3.0, 2.0], 0.8, [4.0, 0.0], interpolation=BILINEAR)[:, 20:-20, 20:-20]
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)


def test_finetune_view_is_the_affine_image_then_the_flip():
    pixels, spec = images(16, 1), finetune(24)
    parameters = sample_views(spec, 16, 24, seeded())
    expected = geometry.affine_images(pixels.float() / 255, parameters.affine, spec.padding)
    expected = torch.where(parameters.flip.view(-1, 1, 1, 1), expected.flip(-1), expected)
    torch.testing.assert_close(apply_views(pixels, parameters, spec), expected, atol=1e-6, rtol=0)
    smaller = replace(spec, size=12)
    resized = torch.stack([reference.resize(image, [12, 12], BILINEAR, antialias=True) for image in expected])
    parameters = sample_views(smaller, 16, 24, seeded())
    torch.testing.assert_close(apply_views(pixels, parameters, smaller), resized, atol=2e-6, rtol=0)


def test_float_pixels_give_the_view_of_the_same_bytes():
    pixels, parameters = images(30), sample_views(EVERYTHING, 30, 24, seeded())
    expected = apply_views(pixels, parameters, EVERYTHING)
    for dtype in (torch.float32, torch.float64):
        result = apply_views(pixels.to(dtype) / 255, parameters, EVERYTHING)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_inputs_stay_unchanged_and_layout_does_not_matter():
    pixels, parameters = images(20).float() / 255, sample_views(EVERYTHING, 20, 24, seeded())
    before = pixels.clone()
    expected = apply_views(pixels, parameters, EVERYTHING)
    assert torch.equal(pixels, before)
    channels_last = pixels.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply_views(channels_last, parameters, EVERYTHING), expected)
    for spec in (evaluation(24), finetune(24)):
        apply_views(pixels, sample_views(spec, 20, 24, seeded()), spec)
        assert torch.equal(pixels, before)


def test_autocast_does_not_change_views():
    pixels, parameters = images(20), sample_views(EVERYTHING, 20, 24, seeded())
    expected = apply_views(pixels, parameters, EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = apply_views(pixels, parameters, EVERYTHING)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_more_rows_than_images_repeat_the_images():
    pixels, parameters = images(10), sample_views(EVERYTHING, 30, 24, seeded())
    result = apply_views(pixels, parameters, EVERYTHING)
    assert torch.equal(result, apply_views(pixels.repeat(3, 1, 1, 1), parameters, EVERYTHING))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_uniform_images_stay_finite_and_in_range(value):
    pixels = torch.full((40, 3, 24, 24), value, dtype=torch.uint8)
    result = apply_views(pixels, sample_views(EVERYTHING, 40, 24, seeded()), EVERYTHING)
    assert bool(result.isfinite().all())
    assert 0.0 <= float(result.min()) <= float(result.max()) <= 1.0
    assert float((result - result.mean(dim=(2, 3), keepdim=True)).abs().max()) < 1e-5


@pytest.mark.parametrize(("side", "size"), [(1, 1), (1, 8), (2, 3), (64, 1)])
def test_tiny_images_and_views_work(side, size):
    spec = replace(EVERYTHING, size=size)
    result = apply_views(images(6, 3, side, side), sample_views(spec, 6, side, seeded()), spec)
    assert result.shape == (6, 3, size, size)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize(
    ("pixels", "rows", "word"),
    [
        (torch.zeros(4, 24, 24, dtype=torch.uint8), 4, "pixels"),
        (torch.zeros(4, 3, 24, 24, dtype=torch.int64), 4, "pixels"),
        (torch.zeros(4, 3, 24, 24), 6, "len(parameters)"),
        (torch.zeros(0, 3, 24, 24), 4, "len(parameters)"),
        (torch.zeros(4, 2, 24, 24), 4, "channels"),
    ],
)
def test_wrong_shapes_are_named(pixels, rows, word):
    with pytest.raises(UserError) as caught:
        apply_views(pixels, sample_views(EVERYTHING, rows, 24, seeded()), EVERYTHING)
    assert f"`{word}`" in str(caught.value)
