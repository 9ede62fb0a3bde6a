"""The switches and the rule for the number of clusters."""

import pytest
from ferry.common.errors import UserError
from ferry.common.parameters import from_mapping
from ferry.labelling import LabellingConfig, default_clusters


@pytest.mark.parametrize(
    ("n", "classes", "clusters"),
    [
        (28_709, 7, 383),
        (11_086, 7, 148),
        (1_143, 7, 30),
        (200, 7, 30),
        (200, 20, 80),
        (40, 7, 20),
        (3, 7, 1),
        (1, 7, 1),
        (10**6, 7, 1000),
    ],
)
def test_the_rule_for_clusters(n, classes, clusters):
    assert default_clusters(n, classes) == clusters


def test_the_rule_never_asks_for_more_than_half_the_images_and_never_falls():
    counts = [default_clusters(n, 7) for n in range(1, 5000)]
    assert counts == sorted(counts)
    assert all(1 <= k <= max(1, n / 2) for n, k in enumerate(counts, start=1))


def test_as_released_and_clean_differ_in_the_documented_switches():
    released, clean = LabellingConfig.as_released(), LabellingConfig.clean()
    assert clean == LabellingConfig()
    assert (released.quota, released.ties, released.majority_ties) == ("floor", "order", "first_class")
    assert (released.clusters, released.keep, released.restarts, released.smoothing) == (1000, 0.1, 10, 0.0)
    assert not released.transfers
    assert (clean.view, released.view) == ("plain", "augmented")
    assert LabellingConfig.as_released(clusters=250, keep=0.3).keep == 0.3


def test_it_is_built_from_text_parameters():
    config = from_mapping(LabellingConfig, {"clusters": "50", "keep": "0.3", "score": "confidence", "smoothing": "2"})
    assert (config.clusters, config.keep, config.score, config.smoothing) == (50, 0.3, "confidence", 2.0)
    assert from_mapping(LabellingConfig, {"clusters": "none"}).clusters is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0.0}, "`keep` to be above 0 and at most 1, but got 0.0. Pass a fraction such as 0.5"),
        ({"keep": float("nan")}, "`keep` to be above 0"),
        ({"clusters": 0}, "`clusters` to be at least 1, but got 0"),
        ({"smoothing": -0.5}, "`smoothing` to be at least 0, but got -0.5"),
        ({"smoothing": float("nan")}, "`smoothing` to be at least 0, but got nan"),
        ({"min_cluster_size": 0}, "`min_cluster_size` to be at least 1"),
        ({"restarts": 0}, "`restarts` to be at least 1"),
        ({"seed": -1}, "`seed` to be at least 0"),
        ({"score": "purty"}, "`score` to be one of purity, confidence.*Did you mean 'purity'"),
        ({"ties": "key"}, "`ties` to be one of source_confidence, distance, order"),
        ({"view": "flipp"}, "`view` to be one of plain, flip, augmented.*Did you mean 'flip'"),
        ({"score": "confidence", "drop_outliers": True}, "`drop_outliers` to be false where score is confidence"),
    ],
)
def test_wrong_switches_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        LabellingConfig(**changes)
