"""The distributions of views are those of torchvision's transforms, and data-parallel ranks agree on them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.training.views import (
    MultiCrop,
    ViewParameters,
    ViewSpec,
    evaluation,
    finetune,
    published,
    sample_views,
    small,
    views,
)
from scipy import stats
from torchvision.transforms import v2

COLOUR = {"brightness": 0.8, "contrast": 0.6, "saturation": 1.5, "hue": 0.2}
FULL = ViewSpec(24, (0.14, 1.0), flip=0.5, jitter=0.8, grayscale=0.2, blur=0.5, blur_reference=24, **COLOUR)
MANY = 2000


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchvision_boxes(spec: ViewSpec, height: int, width: int, n: int) -> np.ndarray:
    torch.manual_seed(7)
    crop = v2.RandomResizedCrop(spec.size, spec.scale, spec.ratio)
    image = [torch.empty(1, height, width)]
    drawn = [crop.make_params(image) for _ in range(n)]
    return np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn])


@pytest.mark.parametrize(
    ("spec", "height", "width"),
    [
        (ViewSpec(24, (0.14, 1.0)), 48, 48),
        (ViewSpec(24, (0.05, 0.14)), 48, 48),
        (ViewSpec(24, (0.5, 1.0)), 30, 64),  # many tries fail
        (ViewSpec(24, (0.8, 1.0), (1.5, 3.0)), 40, 40),  # most samples end with the middle crop
    ],
)
def test_crops_are_distributed_as_in_torchvision(spec, height, width):
    ours = sample_views(spec, MANY, (height, width), seeded()).box.numpy()
    theirs = torchvision_boxes(spec, height, width, MANY)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    # The joint distribution too, not just the margins.
    for left, right in ((2, 3), (0, 2), (1, 3)):
        assert stats.ks_2samp(ours[:, left] * 100 + ours[:, right], theirs[:, left] * 100 + theirs[:, right])[1] > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] >= 1).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (20, 20)])
def test_impossible_crops_end_in_torchvisions_middle_crop(height, width):
    spec = ViewSpec(24, (1.0, 1.0), (1.2, 1.3))  # the whole area at a ratio that these images do not have
    box = sample_views(spec, 3, (height, width), seeded()).box.numpy()
    assert (box == torchvision_boxes(spec, height, width, 1)).all()


def test_jitter_factors_are_distributed_as_in_torchvision():
    torch.manual_seed(11)
    jitter = v2.ColorJitter(**{name: COLOUR[name] for name in COLOUR})
    drawn = [jitter.make_params([]) for _ in range(MANY)]
    factors = sample_views(FULL, MANY, 24, seeded()).factors.numpy()
    for column, name in enumerate(COLOUR):
        theirs = [d[f"{name}_factor"] for d in drawn]
        assert stats.ks_2samp(factors[:, column], theirs).pvalue > 1e-3


def test_all_orders_of_the_colour_operations_are_equally_likely():
    order = sample_views(FULL, 24 * 200, 24, seeded()).order
    counts = [int((order == torch.tensor(want)).all(dim=1).sum()) for want in permutations(range(4))]
    assert sum(counts) == len(order)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("field", "p"), [("flip", 0.5), ("jitter", 0.8), ("grayscale", 0.2), ("blur", 0.5)])
def test_probabilities_hold(field, p):
    hits = int(getattr(sample_views(FULL, MANY, 24, seeded()), field).sum())
    assert stats.binomtest(hits, MANY, p).pvalue > 1e-3
    for certain in (0.0, 1.0):
        drawn = getattr(sample_views(replace(FULL, **{field: certain}), 500, 24, seeded()), field)
        assert int(drawn.sum()) == 500 * certain


def test_draws_of_one_sample_are_independent_of_each_other():
    p = sample_views(FULL, MANY, 24, seeded())
    columns = [p.flip, p.jitter, p.grayscale, p.blur, p.sigma, *p.factors.T, p.box[:, 2] * p.box[:, 3]]
    correlation = np.corrcoef(np.stack([column.double().numpy() for column in columns]))
    assert np.abs(correlation - np.eye(len(columns))).max() < 4.5 / math.sqrt(MANY)


def test_sigma_and_affine_are_uniform_in_their_ranges():
    spec = ViewSpec(48, blur=1.0, rotation=8.0, translation=0.1, zoom=0.06, shear=3.0)
    drawn = sample_views(spec, MANY, (40, 60), seeded())
    low, high = spec.sigma_range
    assert stats.kstest(drawn.sigma.numpy(), stats.uniform(low, high - low).cdf).pvalue > 1e-3
    for column, (centre, reach) in enumerate([(0, 8.0), (0, 6.0), (0, 4.0), (1, 0.06), (0, 3.0)]):
        values = drawn.affine[:, column].numpy()
        assert stats.kstest(values, stats.uniform(centre - reach, 2 * reach).cdf).pvalue > 1e-3


def statistics_of(batch: torch.Tensor) -> dict[str, np.ndarray]:
    found = {f"mean {c}": batch[:, c].mean(dim=(1, 2)) for c in range(batch.shape[1])}
    found |= {f"deviation {c}": batch[:, c].std(dim=(1, 2)) for c in range(batch.shape[1])}
    found["sharpness"] = batch.diff(dim=-1).abs().mean(dim=(1, 2, 3))
    found["slope"] = (batch * torch.linspace(-1, 1, batch.shape[-1])).mean(dim=(1, 2, 3))  # sees missing flips
    if batch.shape[1] == 3:
        found["colourfulness"] = batch.std(dim=1).mean(dim=(1, 2))
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("channels", [1, 3])
def test_output_statistics_equal_torchvision_applied_per_sample(channels):
    n = 500
    generator = seeded(5)
    coarse = torch.rand((1, channels, 5, 5), generator=generator) + torch.linspace(-0.3, 0.3, 5)
    image = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    kernel = 2 * FULL.blur_radius + 1
    colours = v2.ColorJitter(**COLOUR)
    reference = v2.Compose(
        [
            v2.RandomResizedCrop(FULL.size, FULL.scale, FULL.ratio, antialias=True),
            v2.RandomHorizontalFlip(FULL.flip),
            v2.RandomApply([colours], FULL.jitter),
            *([v2.RandomGrayscale(FULL.grayscale)] if channels == 3 else []),
            v2.RandomApply([v2.GaussianBlur(kernel, FULL.sigma_range)], FULL.blur),
        ]
    )
    torch.manual_seed(6)
    theirs = statistics_of(torch.stack([reference(image[0]) for _ in range(n)]))
    ours = statistics_of(views(image.expand(n, -1, -1, -1), MultiCrop(((FULL, 1),)), seeded(8))[0])
    for name, values in ours.items():
        assert stats.ks_2samp(values, theirs[name]).pvalue > 1e-3, name


def test_a_row_does_not_depend_on_the_number_of_rows():
    few, many = sample_views(FULL, 5, 24, seeded()), sample_views(FULL, 50, 24, seeded())
    for name in ViewParameters.__dataclass_fields__:
        assert torch.equal(getattr(few, name), getattr(many[:5], name))


def test_ranks_get_their_rows_of_the_global_batch_and_equal_generators():
    pixels = torch.randint(0, 256, (12, 3, 24, 24), generator=seeded(1), dtype=torch.uint8)
    multicrop = MultiCrop(((FULL, 2), (replace(FULL, size=10), 3)))
    generator = seeded(2)
    whole = views(pixels, multicrop, generator)
    assert [tuple(view.shape) for view in whole] == [(12, 3, 24, 24)] * 2 + [(12, 3, 10, 10)] * 3
    for rows in (slice(0, 5), slice(5, 12)):
        own = seeded(2)
        part = views(pixels[rows], multicrop, own, rows)
        assert torch.equal(own.get_state(), generator.get_state())
        for view, expected in zip(part, whole, strict=True):
            torch.testing.assert_close(view, expected[rows], atol=1e-6, rtol=0)


def test_views_of_one_batch_differ_and_a_seed_repeats_them():
    pixels = torch.randint(0, 256, (6, 1, 24, 24), generator=seeded(1), dtype=torch.uint8)
    first = views(pixels, MultiCrop(((FULL, 2),)), seeded(3))
    again = views(pixels, MultiCrop(((FULL, 2),)), seeded(3))
    other = views(pixels, MultiCrop(((FULL, 2),)), seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first[0], other[0])


def test_rows_that_do_not_fit_the_pixels_are_refused():
    with pytest.raises(UserError, match="`rows` to be a slice of 6 rows"):
        views(torch.zeros(6, 1, 24, 24), MultiCrop(((FULL, 1),)), seeded(), slice(0, 4))


def test_published_preset_has_the_papers_values():
    multicrop = published(224)
    (large, two), (little, six) = multicrop.crops
    assert (two, six, multicrop.total) == (2, 6, 8)
    assert multicrop.sizes == (224, 224, 96, 96, 96, 96, 96, 96)
    assert (large.scale, little.scale) == ((0.14, 1.0), (0.05, 0.14))
    for spec in (large, little):
        assert (spec.brightness, spec.contrast, spec.saturation, spec.hue) == (0.8, 0.8, 0.8, 0.2)
        assert (spec.jitter, spec.grayscale, spec.blur, spec.flip) == (0.8, 0.2, 0.5, 0.5)
        assert spec.sigma_range == pytest.approx((0.1, 2.0))


def test_blur_scales_with_the_view_down_to_its_floor():
    assert ViewSpec(112, blur=1.0).sigma_range == pytest.approx((0.05, 1.0))
    assert ViewSpec(24, blur=1.0).sigma_range == pytest.approx((0.1 * 24 / 224, 0.5))
    assert ViewSpec(24, blur=1.0, blur_floor=0.0).sigma_range == pytest.approx((0.1 * 24 / 224, 2.0 * 24 / 224))


def test_small_presets_have_soft_crops_and_even_sizes():
    for size in (32, 40, 48, 50, 64, 96):
        multicrop = small(size)
        assert [spec.scale for spec, _ in multicrop.crops] == [(0.5, 1.0), (0.2, 0.5)]
        assert all(side % 2 == 0 and side <= size for side in multicrop.sizes)
    assert small(48).sizes == (36, 36, 24, 24)
    assert small(48, small=0).sizes == (36, 36)


def test_evaluation_draws_nothing_but_the_middle():
    drawn = sample_views(evaluation(48), 4, 48, seeded())
    assert (drawn.box == torch.tensor([0, 0, 48, 48])).all()
    assert not (drawn.flip | drawn.jitter | drawn.grayscale | drawn.blur).any()
    assert (sample_views(evaluation(48), 1, (48, 60), seeded()).box == torch.tensor([0, 6, 48, 48])).all()
    assert not evaluation(48).affine
    assert finetune(48).affine


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0),
        ("scale", (0.5, 1.2)),
        ("scale", (0.0, 1.0)),
        ("scale", (0.9, 0.3)),
        ("ratio", (-1.0, 1.0)),
        ("flip", 1.5),
        ("jitter", -0.1),
        ("blur", math.nan),
        ("hue", 0.6),
        ("contrast", -1.0),
        ("zoom", 1.0),
        ("rotation", 270.0),
        ("shear", 90.0),
        ("blur_sigma", (0.0, 1.0)),
        ("padding", "mirror"),
    ],
)
def test_wrong_specs_name_field_value_and_advice(field, value):
    with pytest.raises(UserError) as caught:
        ViewSpec(**{"size": 24, field: value})
    assert f"`{field}`" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_multicrop_needs_a_view():
    with pytest.raises(UserError, match="`crops`"):
        MultiCrop(())
    with pytest.raises(UserError, match="`crops`"):
        MultiCrop(((FULL, 0),))
