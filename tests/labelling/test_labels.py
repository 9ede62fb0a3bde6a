"""Pseudo-labels from end to end on separated and on confused targets."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import sklearn.cluster
from ferry.clustering import KMeans, append_one_and_normalise
from ferry.common.errors import UserError
from ferry.labelling import LabellingConfig, class_quota, cluster_purity, label_from_clusters, pseudo_labels

CLASSES = ("anger", "fear", "neutral")
COLUMNS = ("label", "score", "cluster", "purity", "confidence", "distance", "kept", "teacher")


def target(n=240, noise=0.2, seed=0):
    """Three separated groups of images; the source model errs on the share `noise` of each."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3
    features = np.eye(3)[truth] * 12 + rng.standard_normal((n, 3))
    said = np.where(rng.random(n) < noise, (truth + 1) % 3, truth)
    logits = np.eye(3)[said] * 2 + rng.standard_normal((n, 3)) * 0.3
    keys = [f"{i:05d}.png" for i in rng.permutation(n)]
    return logits.astype(np.float32), features.astype(np.float32), keys, truth


def assert_same(a, b):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(a.columns, name), getattr(b.columns, name), err_msg=name)


def clustering(assignments, distances=None):
    n = len(assignments)
    distances = np.zeros(n, np.float32) if distances is None else np.asarray(distances, np.float32)
    return KMeans(np.zeros((max(assignments) + 1, 2), np.float32), np.asarray(assignments), distances, 0.0, 1, True)


def test_clusters_correct_the_source_model_where_groups_are_separated():
    logits, features, keys, truth = target()
    found = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(clusters=6, restarts=3))
    assert (logits.argmax(1) == truth).mean() < 0.9
    np.testing.assert_array_equal(found.columns.label, truth)
    assert found.summary["agreement"] == pytest.approx((logits.argmax(1) == truth).mean())
    assert found.keys == tuple(keys)


@pytest.mark.parametrize("score", ["purity", "confidence"])
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_a_class_that_is_fifty_times_rarer_keeps_its_quota(score, keep):
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [1000, 1000, 20])
    features = np.eye(3)[truth] * 12 + rng.standard_normal((len(truth), 3))
    # The rare class is also the one that the source model is least sure of: any common threshold would lose it.
    logits = np.eye(3)[truth] * np.array([6, 5, 1.5])[truth, None] + rng.standard_normal((len(truth), 3)) * 0.2
    keys = [f"{i:05d}.png" for i in rng.permutation(len(truth))]
    config = LabellingConfig(clusters=12, restarts=3, score=score, keep=keep)
    found = pseudo_labels(logits.astype(np.float32), features.astype(np.float32), keys, CLASSES, config)
    np.testing.assert_array_equal(found.columns.label, truth)
    kept = np.bincount(truth[found.columns.kept], minlength=3)
    assert kept.tolist() == [round(1000 * keep), round(1000 * keep), round(20 * keep)]
    assert found.summary["lost_classes"] == {}
    common = np.sort(found.columns.confidence)[::-1][kept.sum() - 1]
    assert not (found.columns.confidence[truth == 2] >= common).any()


def test_every_column_follows_from_the_clusters():
    logits, features, keys, _ = target(noise=0.4)
    config = LabellingConfig(clusters=9, keep=0.3)
    c = pseudo_labels(logits, features, keys, CLASSES, config).columns
    peer = cluster_purity(c.cluster, logits.argmax(1), 9, 3)
    smooth = cluster_purity(c.cluster, logits.argmax(1), 9, 3, smoothing=1.0)
    np.testing.assert_allclose(c.purity, peer.purity[c.cluster], rtol=1e-6)
    np.testing.assert_allclose(c.score, smooth.purity[c.cluster], rtol=1e-6)
    exponentials = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(c.confidence, (exponentials / exponentials.sum(1, keepdims=True)).max(1), rtol=1e-5)
    kept = class_quota(c.label, c.score, 0.3, 3, quota=config.quota, tie_breakers=[c.confidence], keys=keys)
    np.testing.assert_array_equal(c.kept, kept)
    u = append_one_and_normalise(features)
    centroids = np.stack([u[c.cluster == k].mean(0) for k in range(9)])
    np.testing.assert_allclose(c.distance, np.linalg.norm(u - centroids[c.cluster], axis=1), atol=0.02)


def test_as_released_equals_a_plain_loop_over_the_clusters_of_scikit_learn():
    logits, features, keys, _ = target(noise=0.45)
    found = sklearn.cluster.KMeans(12, n_init=10, random_state=0).fit(append_one_and_normalise(features))
    clusters = clustering(found.labels_.astype(np.int64))
    columns = label_from_clusters(logits, clusters, keys, LabellingConfig.as_released(keep=0.2)).columns
    teacher, label, score = logits.argmax(1), np.zeros(240, int), np.zeros(240)
    for cluster in range(12):
        rows = np.flatnonzero(found.labels_ == cluster)
        best, most = 0, 0
        for name in range(3):
            if (teacher[rows] == name).sum() > most:  # strictly more: the first class wins
                best, most = name, (teacher[rows] == name).sum()
        label[rows], score[rows] = best, most / len(rows)
    kept = np.zeros(240, bool)
    for name in range(3):
        rows = np.flatnonzero(label == name)
        kept[rows[np.argsort(-score[rows].astype(np.float32), kind="stable")[: int(0.2 * len(rows))]]] = True
    np.testing.assert_array_equal(columns.label, label)
    np.testing.assert_allclose(columns.score, score, rtol=1e-6)
    np.testing.assert_array_equal(columns.kept, kept)


def test_the_worked_example_keeps_two_of_the_first_and_one_of_the_second_class():
    logits = np.eye(3)[[0, 0, 1, 1, 1, 1, 2, 0]] * 5.0
    keys = list("abcdefgh")
    released = LabellingConfig.as_released(keep=0.5)
    columns = label_from_clusters(logits, clustering([0, 0, 0, 1, 1, 1, 2, 2]), keys, released).columns
    assert columns.label.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert columns.kept.tolist() == [True, True, False, True, False, False, False, False]


def test_confidence_keeps_the_source_labels_and_ranks_by_probability():
    logits, features, keys, _ = target(noise=0.4)
    found = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(score="confidence", keep=0.25, clusters=5))
    c = found.columns
    np.testing.assert_array_equal(c.label, logits.argmax(1))
    np.testing.assert_array_equal(c.score, c.confidence)
    for label in range(3):
        members = c.label == label
        assert c.score[members & c.kept].min() >= c.score[members & ~c.kept].max()
    assert found.summary["per_class"]["anger"]["threshold"] == pytest.approx(
        float(c.score[c.kept & (c.label == 0)].min())
    )


def test_the_order_of_images_does_not_matter():
    logits, features, keys, _ = target(noise=0.4)
    config = LabellingConfig(clusters=10)
    found = pseudo_labels(logits, features, keys, CLASSES, config)
    order = np.random.default_rng(5).permutation(len(keys))
    moved = pseudo_labels(logits[order], features[order], [keys[i] for i in order], CLASSES, config)
    assert_same(found.align(moved.keys), moved)
    assert found.summary == moved.summary


def test_a_seed_fixes_everything():
    logits, features, keys, _ = target(noise=0.4)
    features = np.random.default_rng(3).standard_normal(features.shape)
    config = LabellingConfig(clusters=20, seed=4)
    found = pseudo_labels(logits, features, keys, CLASSES, config)
    assert_same(found, pseudo_labels(logits, features, keys, CLASSES, config))
    other = pseudo_labels(logits, features, keys, CLASSES, replace(config, seed=5))
    assert not np.array_equal(found.columns.cluster, other.columns.cluster)


def test_ties_within_a_cluster_go_by_confidence_distance_or_order():
    logits = np.array([[1.0, 0], [3, 0], [2, 0], [4, 0]])
    clusters = clustering([0, 0, 0, 0], [0.1, 0.4, 0.2, 0.3])
    kept = {}
    for ties in ("source_confidence", "distance", "order"):
        config = LabellingConfig(ties=ties, keep=0.5)
        kept[ties] = np.flatnonzero(label_from_clusters(logits, clusters, list("dcba"), config).columns.kept).tolist()
    assert kept == {"source_confidence": [1, 3], "distance": [0, 2], "order": [0, 1]}
    even = label_from_clusters(np.array([[1.0, 0]] * 4), clusters, list("dcba"), LabellingConfig(keep=0.5)).columns
    assert even.kept.tolist() == [False, False, True, True]  # keys a and b


def test_small_clusters_and_outliers_are_passed_over_on_request():
    logits = np.eye(2)[[0, 0, 0, 1, 0]] * 3.0
    clusters = clustering([0, 0, 0, 0, 1])
    whole = LabellingConfig(keep=1.0)
    assert label_from_clusters(logits, clusters, list("abcde"), whole).columns.kept.all()
    small = label_from_clusters(logits, clusters, list("abcde"), replace(whole, min_cluster_size=2)).columns
    assert small.kept.tolist() == [True, True, True, True, False]
    outliers = label_from_clusters(logits, clusters, list("abcde"), replace(whole, drop_outliers=True)).columns
    assert outliers.label.tolist() == [0] * 5
    assert outliers.kept.tolist() == [True, True, True, False, True]


def test_one_cluster_gives_everybody_the_global_majority():
    logits, features, keys, _ = target()
    logits[:100] = [0, 9, 0]
    found = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(clusters=1))
    assert set(found.columns.label.tolist()) == {1}
    assert set(found.summary["lost_classes"]) == {"anger", "neutral"}


def test_as_many_clusters_as_images_give_the_source_labels_and_purity_one():
    logits, features, keys, _ = target(60, noise=0.4)
    found = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(clusters=60))
    np.testing.assert_array_equal(found.columns.label, logits.argmax(1))
    np.testing.assert_array_equal(found.columns.purity, 1)
    # with smoothing all scores are equal, so confidence decides: purity degenerates into confidence
    by_confidence = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(score="confidence", clusters=60))
    np.testing.assert_array_equal(found.columns.kept, by_confidence.columns.kept)


def test_lost_classes_are_named_with_the_reason(caplog):
    logits, features, keys, _ = target()
    logits[:] = [5, 0, 0]
    logits[7] = [0, 0, 5]  # one image of the third class, swallowed by its cluster
    with caplog.at_level(logging.WARNING, "ferry"):
        found = pseudo_labels(logits, features, keys, CLASSES, LabellingConfig(clusters=3))
    assert found.summary["lost_classes"] == {
        "fear": "the teacher gives it to no image",
        "neutral": "it is the majority of no cluster, though the teacher gives it to 1 images",
    }
    assert "'fear'" in caplog.text
    assert "'neutral'" in caplog.text
    few = LabellingConfig.as_released(clusters=3, keep=0.01, restarts=1, ties="distance")
    logits[:200] = [0, 5, 0]
    with pytest.raises(UserError, match=r"`keep` to be large enough to keep at least one image, but got 0\.01"):
        pseudo_labels(logits[:60], features[:60], keys[:60], CLASSES, few)


def test_the_summary_adds_up():
    logits, features, keys, _ = target(noise=0.4)
    found = pseudo_labels(logits, features, keys, CLASSES)
    s = found.summary
    assert json.loads(json.dumps(s, allow_nan=False)) == s
    assert s["images"] == 240 == sum(row["labelled"] for row in s["per_class"].values())
    assert s["kept"] == found.columns.kept.sum() == sum(row["kept"] for row in s["per_class"].values())
    assert (s["clusters"]["k"], s["clusters"]["rule"]) == (30, "default_clusters")
    assert s["keep"] == {"r": 0.5, "rule": "default"}
    filled = s["clusters"]["k"] - s["clusters"]["empty"]
    assert sum(s["purity"]["clusters"]) == filled == sum(row["clusters"] for row in s["per_class"].values())
    assert sum(s["purity"]["images"]) == 240
    assert found.config["quota"] == "round_at_least_one"


def test_huge_and_tiny_logits_stay_finite():
    _, features, keys, _ = target(30)
    logits = np.zeros((30, 3), np.float32)
    logits[:15] = [3e4, -3e4, 0]
    found = pseudo_labels(logits, features, keys, CLASSES)
    assert found.columns.confidence[:15].tolist() == [1.0] * 15
    np.testing.assert_allclose(found.columns.confidence[15:], 1 / 3, rtol=1e-6)


def test_a_single_image_is_labelled():
    found = pseudo_labels([[0.0, 2.0]], [[1.0]], ["a"], ("anger", "fear"))
    assert (found.columns.label.tolist(), found.columns.kept.tolist()) == ([1], [True])


def wrong(**changes):
    logits, features, keys, _ = target(12)
    arguments = {"logits": logits, "features": features, "keys": keys, "classes": CLASSES, "config": None}
    return arguments | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            wrong(keys=[], logits=np.zeros((0, 3)), features=np.zeros((0, 3))),
            "`keys` to be at least one image, but got",
        ),
        (wrong(keys=["a"] * 12), "`keys` to be unique, but got '11 repeated"),
        (wrong(logits=np.zeros((11, 3))), r"`logits` to be a matrix with one row for each of 12 keys.*\(11, 3\)"),
        (wrong(features=np.zeros(12)), r"`features` to be a matrix.*\(12,\)"),
        (
            wrong(logits=np.full((12, 3), np.nan)),
            "`logits` to be finite, but got .12 of 12 rows with NaN.*input scaling",
        ),
        (wrong(features=np.full((12, 3), np.inf)), "`features` to be finite"),
        (wrong(classes=("anger", "fear")), "`logits` to be of 2 columns, one per class, but got 3"),
        (wrong(classes=("anger",)), "`classes` to be at least two different names"),
        (wrong(classes=("anger", "fear", "fear")), "`classes` to be at least two different names"),
        (wrong(config=LabellingConfig(clusters=13)), "`clusters` to be at most the number of rows, 12, but got 13"),
    ],
)
def test_wrong_input_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        pseudo_labels(**arguments)
