"""The page: well-formed, alone, complete, escaped, small; with and without labels; 1 to 9 classes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from ferry.common.errors import UserError
from ferry.evaluation import History, PseudoLabelData, ReportData, ReportRow, evaluate, render_report, write_report
from ferry.evaluation.formats import points

CLASSES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
PARTS = (
    "AdaBN",
    "two seconds",
    "rendered to drawn",
    "Predicted class shares",
    "Reliability diagram",
    "young",
    "ln K = 5.011",
    "1/K = 0.006667",
    "Extra scalar",
    "1 min 15 s",
    "adaptation.mixup",
    "sha256:abc",
    "20260101-clup",
    "No flip averaging",
    "PCA of 29 faces",
    "No pseudo-label is left for disgust",
    "not what a person feels",
)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, ids, links and text, and checks that every tag is closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.attributes, self.words = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words).replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture(scope="module")
def data(labels, make):
    rows = [
        ReportRow(name, made.logits, made.features, note)
        for name, made, note in (
            ("source-only", make(labels, 0.5, seed=1), ""),
            ("AdaBN", make(labels, 0.6, seed=2), "two seconds"),
            ("CluP", make(labels, 0.7, seed=3), ""),
        )
    ]
    steps = range(0, 50, 5)
    return ReportData(
        classes=CLASSES,
        rows=rows,
        labels=labels,
        title="CluP: rendered to drawn",
        groups=["young" if index % 3 else "old" for index in range(len(labels))],
        group_name="age",
        pseudo_labels=PseudoLabelData(np.where(labels == 1, 4, labels), labels % 2 == 0, np.linspace(0.2, 1, 350)),
        histories=[
            History(
                "Pretraining", [{"step": s, "loss": 5 - s / 50, "max_code": 0.1, "perplexity": 9} for s in steps], 150
            ),
            History(
                "Fine-tuning",
                [{"epoch": 1, "loss": 1.25, "extra_scalar": 3.0, "images_per_second": 171.25, "note": "text"}],
            ),
        ],
        parameters={"adaptation": {"mixup": 0.2, "frozen": False}, "s3_secret_key": "hunter2", "seeds": [1, 2]},
        lineage={"run": "20260101-clup", "digest": "sha256:abc"},
        times={"import": 3.5, "pretraining": 75.0},
        left_out=["No flip averaging in this preset."],
        embedding_points=29,
    )


@pytest.fixture(scope="module")
def html(data):
    """The page of the data as they are: drawing takes most of the time of these tests."""
    return render_report(data)


@pytest.fixture
def few(data):
    """Data of few pictures, for tests of one part."""
    return replace(data, rows=[data.rows[0], data.rows[2]], pseudo_labels=None, histories=[])


def test_holds_every_part_and_number(data, html):
    page = Page(html)
    evaluation = data.evaluated()
    for row in evaluation.rows.values():
        for value in (
            row.metrics.accuracy,
            row.metrics.mean_class_accuracy,
            row.metrics.min_class_accuracy,
            row.metrics.ece,
        ):
            assert f"{100 * value:.1f} %" in page.text
        for item in row.metrics.per_class.values():
            assert f"{100 * item.recall:.1f} %" in page.text
        for count in row.metrics.confusion.ravel():
            assert re.search(rf"\b{count}\b", page.text)
    for words in (*CLASSES, *PARTS):
        assert words in page.text, words
    assert "mages per second" not in page.text
    assert html.startswith("<!doctype html>")


def test_the_table_of_models_compares_with_source_and_baseline(data, few, html):
    evaluation = data.evaluated()
    table = html[html.index("<caption>Models on the holdout") :]
    table = table[: table.index("</table>")]
    assert "Mean-class against AdaBN" in table
    for item in (evaluation.differences["CluP"], evaluation.to_rival["CluP"]):
        gap = item["mean_class_accuracy"]
        value, low, high = (re.escape(points(one)) for one in (gap.value, gap.low, gap.high))
        assert len(re.findall(rf"<td>{value}\s*<small>{low} to {high}<", table)) == 1
    assert "against AdaBN" not in render_report(few)


def test_confusion_cells_are_shares_of_the_true_class(data, html):
    html = re.sub(r"\s+", " ", html)
    for row in data.evaluated().rows.values():
        counts = row.metrics.confusion
        for line, of_class in zip(counts, counts.sum(axis=1), strict=True):
            for count in line:
                cell = f'style="--share:{count / of_class:.3f}">{100 * count / of_class:.0f}<small>{count}</small>'
                assert cell in html


def test_loads_nothing_from_elsewhere_and_holds_no_image(html):
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import|data:", html)
    within = re.findall(r"url\(([^)]*)\)", html) + [v for t, k, v in page.attributes if t == "use" and k == "href"]
    assert within
    assert all(place.startswith("#") and place[1:] in page.ids for place in within)
    links = [value for tag, key, value in page.attributes if tag == "a" and key == "href"]
    assert links
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    assert len(page.ids) == len(set(page.ids))


def test_pictures_have_words_or_are_decoration(html):
    pictures = re.findall(r"<svg([^>]*)>(.*?)</svg>", html, re.DOTALL)
    assert len(pictures) > 10
    for head, inside in pictures:
        if 'aria-hidden="true"' in head:
            assert "<text" not in inside
            continue
        title, words = re.search(r'role="img" aria-labelledby="(\S+) (\S+)"', head).groups()
        assert re.search(rf'<title id="{title}">[^<]{{4,}}</title><desc id="{words}">[^<]{{9,}}</desc>', inside)
    page = Page(html)
    assert page.tags.count("table") == page.tags.count("caption")


def test_pictures_of_equal_curves_do_not_share_ids(data, few):
    page = Page(render_report(replace(few, histories=[History("twice", data.histories[0].records)] * 2)))
    assert "training-2" in page.ids
    assert len(page.ids) == len(set(page.ids))


def test_verdict_stands_at_the_top(data, html):
    page = Page(html)
    sentence = data.evaluated().verdict.sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert page.text.index(sentence) < page.text.index("What to watch") < page.text.index("Models on the holdout")


def test_worse_than_the_source_is_a_warning(few):
    page = Page(render_report(replace(few, rows=few.rows[::-1])))
    assert "Warning: not better" in page.text
    assert "Keep the source model (CluP)" in page.text


@pytest.mark.parametrize("labels_of", [None, []])
def test_without_labels_it_says_so_and_shows_no_accuracy(few, labels_of):
    page = Page(render_report(replace(few, labels=labels_of)))
    assert "accuracy of CluP on the target is not known" in page.text
    assert "Predicted class shares" in page.text
    assert "Neighbourhood density" in page.text
    assert "there is no labelled holdout" in page.text
    assert not {"results", "classes", "confusion", "calibration", "groups"} & set(page.ids)


def test_words_from_outside_are_escaped(data):
    bad = '<script>alert("x")</script>&\'"'
    hostile = replace(
        data,
        classes=(bad, *CLASSES[1:]),
        rows=[replace(data.rows[0], name=bad, note=bad), *data.rows[1:]],
        title=bad,
        subtitle=bad,
        groups=[bad] * 200 + ["y"] * 150,
        group_name=bad,
        parameters={bad: bad},
        lineage={bad: [bad]},
        times={bad: 1.0},
        left_out=[bad],
        histories=[History(bad, [{"step": 1, bad: 2.0, "loss": 1.0}], 9, bad)],
    )
    html = render_report(hostile)
    page = Page(html)
    assert "script" not in page.tags
    assert bad in page.text
    assert not any(key.startswith("on") for _, key, _ in page.attributes)


def test_secrets_are_hidden(html):
    assert "hunter2" not in html
    assert "s3_secret_key" in html


@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_any_number_of_classes(count, make):
    labels = np.arange(60) % count
    rows = [ReportRow(n, make(labels, s, count, features=4 + count).logits) for n, s in (("a", 0.5), ("b", 0.9))]
    page = Page(render_report(ReportData(classes=[f"class {i}" for i in range(count)], rows=rows, labels=labels)))
    assert "class 0" in page.text
    assert "exposes no features" in page.text


def test_one_image_one_row_and_no_image(make):
    one = ReportRow("only", make(np.array([2]), 1.0).logits, np.ones((1, 3)))
    assert "1 labelled holdout face" in Page(render_report(ReportData(CLASSES, [one], [2]))).text
    none = ReportRow("only", np.zeros((0, 7)), np.zeros((0, 3)))
    assert "not known" in Page(render_report(ReportData(CLASSES, [none], []))).text


def test_scored_classes_add_a_second_table(few):
    page = Page(render_report(replace(few, scored_classes=("anger", "happiness"))))
    assert "Decisions among the scored classes only: anger, happiness" in page.text
    assert "of classes that are not scored" in page.text


def test_logits_in_place_of_features_are_told(few):
    rows = [replace(few.rows[0], features=few.rows[0].logits, feature_kind="logits"), *few.rows[1:]]
    assert "source-only exposes no features: its logits served" in Page(render_report(replace(few, rows=rows))).text


def test_a_collapse_is_what_the_training_itself_calls_one_and_never_the_loss_alone(few):
    """A healthy DeepClusterV2 with a loss at ln K is none."""
    stuck = History("Pretraining", [{"step": s, "loss": math.log(150) + 0.04} for s in range(9)], 150)
    assert "collapse" not in " ".join(alarm.text for alarm in replace(few, histories=[stuck]).evaluated().alarms)
    said = replace(few, histories=[replace(stuck, collapse=("The centroids have merged.",))])
    (alarm,) = [alarm for alarm in said.evaluated().alarms if "collapse" in alarm.text]
    assert (alarm.level, alarm.text) == (
        "warning",
        "Pretraining ended with a sign of collapse. The centroids have merged.",
    )
    assert alarm.text in Page(render_report(said)).text


def test_pictures_that_holdout_and_target_share_are_a_warning(few):
    text = "3 of 350 holdout faces are in the target too"
    (alarm,) = [one for one in replace(few, shared_faces=3).evaluated().alarms if text in one.text]
    assert alarm.level == "warning"
    assert text not in " ".join(alarm.text for alarm in few.evaluated().alarms)


def test_without_labels_the_advice_knows_what_the_run_itself_warns_of(few):
    calm = replace(few, labels=None, rows=[few.rows[0], replace(few.rows[0], name="CluP")])
    assert calm.evaluated().verdict.advice.startswith("Label some target faces")
    lost = PseudoLabelData([0, 1, 2, 3, 4, 5], [1] * 6)  # no surprise
    verdict = replace(calm, pseudo_labels=lost).evaluated().verdict
    assert verdict.advice.startswith("There are warnings below: keep the source model")
    assert verdict.use == few.rows[0].name


def test_mostly_wrong_pseudo_labels_are_a_warning_that_the_stage_gives(few):
    wrong = PseudoLabelData(np.repeat([3, 4], 25), np.ones(50), true_labels=np.repeat([3, 0], 25))
    given = replace(few, pseudo_labels=wrong)
    (alarm,) = [one for one in given.evaluated().alarms if "pseudo-labels are wrong for neutral" in one.text]
    assert (alarm.level, alarm in given.run_alarms()) == ("warning", False)  # no stage before has warned of it
    unknown = replace(given, pseudo_labels=replace(wrong, true_labels=None))
    assert "are wrong" not in " ".join(one.text for one in unknown.evaluated().alarms)


@pytest.mark.parametrize("other", [True, False])
def test_the_worst_classes_are_compared_only_where_they_are_the_same(other):
    truth = np.repeat([0, 1, 2], 50)
    before, after = truth.copy(), truth.copy()
    before[:40], after[50:70] = 1, 2  # anger 20 %; disgust 60 %
    if not other:
        before[50:100] = 2  # disgust 0 %
    rows = [ReportRow(name, np.eye(7)[decided]) for name, decided in (("source-only", before), ("CluP", after))]
    page = Page(render_report(ReportData(CLASSES, rows, truth, embedding_points=0)))
    wanted = "source-only: anger 20.0 % " if other else "source-only: 0.0 % (+60.0)"
    assert f"Worst class: disgust 60.0 % {wanted}" in page.text.replace("  ", " ")
    assert "(+40.0)" not in page.text


def test_calibration_says_on_which_side_the_confidence_is_off():
    truth = np.arange(70) % 7
    high, low = np.log(0.88), np.log(0.02)  # 88 % for the decision, 2 % for each of the six others
    logits = np.where(np.eye(7)[np.where(np.arange(70) < 35, truth, (truth + 1) % 7)], high, low)
    right = np.where(np.eye(7)[truth], np.log(0.4), np.log(0.1))
    exact = np.where(np.eye(7)[np.where(np.arange(70) < 28, truth, (truth + 1) % 7)], np.log(0.4), np.log(0.1))
    rows = [ReportRow("over", logits), ReportRow("under", right), ReportRow("exact", exact)]
    text = Page(render_report(ReportData(CLASSES, rows, truth, embedding_points=0))).text
    assert "Mean confidence 88.0 %, accuracy 50.0 %: overconfident." in text
    assert "Mean confidence 40.0 %, accuracy 100.0 %: underconfident." in text
    assert text.count("Mean confidence 40.0 %, accuracy") == 1  # and none of the exact one
    assert "bars above it underconfidence" in text


def test_reads_on_a_phone_and_on_paper(html):
    """What only a browser shows is checked by eye; these are the rules without which it cannot be right."""
    assert ("meta", "content", "width=device-width, initial-scale=1") in Page(html).attributes
    style = html[html.index("<style>") : html.index("</style>")]
    phone, paper = (style[style.index(f"@media {kind}") :] for kind in ("(max-width: 560px)", "print"))
    assert "font-size" in phone[: phone.index("@media print")]
    assert "@page" in paper
    assert re.search(r"nav \{ display: none; \}", paper)
    assert re.search(
        r"td small, tbody th small \{ font-size: [.\d]+em; \}", paper
    )  # of the table's size, not the page's
    assert re.search(r"\.parts \{ grid-template-columns: 1fr;", paper)
    assert re.search(r"\.scroll \{ overflow: visible;", paper)  # nothing can be scrolled on paper


def test_broken_histories_do_not_break_the_page(few):
    odd = [
        History("empty", []),
        History("not finite", [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}]),
        History("words", [{"step": "x", "loss": "y"}]),
    ]
    page = Page(render_report(replace(few, histories=odd)))
    assert "No finite value" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text.lower())


def test_too_many_groups_are_left_out_by_name(few):
    page = Page(render_report(replace(few, groups=[f"person {i % 60}" for i in range(350)])))
    assert "The table by age is left out: 60 values" in page.text


def test_stays_small_for_two_thousand_faces(make, monkeypatch, tmp_path):
    from ferry.evaluation import embedding, record

    def quick(features, points, seed):  # the real one takes seconds; the page's size does not depend on the places
        rng = np.random.default_rng(0)
        return embedding.Embedding(rng.normal(size=(len(features), 2)), np.arange(len(features)), "PCA")

    monkeypatch.setattr(record, "embed", quick)
    labels = np.arange(2000) % 7
    rows = [ReportRow(n, m.logits, m.features) for n, m in (("a", make(labels, 0.5)), ("b", make(labels, 0.8)))]
    long = History("long", [{"step": s, "loss": 1 / (s + 1)} for s in range(20_000)])
    write_report(tmp_path / "report.html", ReportData(CLASSES, rows, labels, embedding_points=2000, histories=[long]))
    assert (tmp_path / "report.html").stat().st_size < 600_000


def test_same_input_gives_the_same_page(data, html):
    assert render_report(data) == html


def test_a_given_evaluation_is_used(few):
    evaluation = evaluate({row.name: row for row in few.rows}, None, CLASSES)
    assert "not known" in Page(render_report(replace(few, evaluation=evaluation))).text


def test_rows_must_have_different_names(data):
    with pytest.raises(UserError, match="`rows`"):
        replace(data, rows=[data.rows[0], data.rows[0]])
    with pytest.raises(UserError, match="`embedding_points`"):
        replace(data, embedding_points=2)
