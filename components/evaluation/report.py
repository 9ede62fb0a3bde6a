"""One HTML file that tells whether an adaptation helped: opens offline, reads on a phone and on paper.

It holds no face and loads nothing from elsewhere: no script, font, style or image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from .. import __version__
from ..common.errors import expected
from ..common.files import write_text
from . import record, sections
from .alarms import Alarm, collapse_alarms, lost_class_alarm, overlap_alarm, wrong_labels_alarm
from .evaluate import Evaluation, evaluate
from .page import Section
from .record import History, PseudoLabelData
from .verdict import Verdict

_FOLDER = Path(__file__).parent
_LEVELS = {
    "better": "Better than its source",
    "mixed": "Mixed result",
    "unclear": "No clear difference",
    "worse": "Warning: not better",
    "unknown": "Accuracy not known",
}


@dataclass(frozen=True)
class ReportRow:
    """One model in the report.

    Attributes:
        name: Its name, as people shall read it.
        logits: Logits [N, C].
        features: Features [N, D], or None where it exposes none.
        note: A short remark beside its name.
        feature_kind: ``logits`` where `features` are the logits because the model exposes no others.
    """

    name: str
    logits: Any
    features: Any = None
    note: str = ""
    feature_kind: str = "features"


@dataclass(frozen=True)
class ReportData:
    """Everything a report can show; all but `classes` and `rows` may be left away.

    Attributes:
        classes: The C class names in index order.
        rows: The models, in order: the source first, the adapted one last, unless `source` and `adapted` say else.
        labels: True class indices [N] of the holdout, or None.
        title: Heading of the page.
        subtitle: A line below it, for instance the pair of domains.
        source: Name of the source row.
        adapted: Name of the adapted row.
        scored_classes: Classes that count; default all.
        groups: One group value per image, for the table of groups.
        group_name: What the groups are.
        pseudo_labels: The pseudo-labels that trained the adapted model.
        histories: Trainings, in order.
        parameters: Parameters; values of names that look like secrets are hidden.
        lineage: Digests, versions, ids.
        times: Seconds by stage, in order.
        left_out: Sentences that say what is missing and why.
        shared_faces: Holdout faces whose pictures are in the target too.
        evaluation: What :meth:`evaluated` returned, where it was made already.
        embedding_points: At most so many faces in the embedding pictures; 0 for no pictures.
        seed: Seed of the embedding.
    """

    classes: Sequence[str]
    rows: Sequence[ReportRow]
    labels: Any = None
    title: str = "Adaptation report"
    subtitle: str = ""
    source: str = ""
    adapted: str = ""
    scored_classes: Sequence[str] | None = None
    groups: Sequence[Any] | None = None
    group_name: str = "group"
    pseudo_labels: PseudoLabelData | None = None
    histories: Sequence[History] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    shared_faces: int = 0
    evaluation: Evaluation | None = None
    embedding_points: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not names or len(set(names)) != len(names):
            raise expected("rows", "one or more models with different names", names, "Rename the rows.")
        if self.embedding_points and self.embedding_points < 3:
            raise expected("embedding_points", "0 or at least 3", self.embedding_points, "Pass a number such as 1000.")

    def evaluated(self) -> Evaluation:
        """Returns the evaluation, made now where none was given; its alarms tell of pseudo-labels and trainings too."""
        if self.evaluation is not None:
            return self.evaluation
        return evaluate(
            {row.name: row for row in self.rows},
            self.labels,
            self.classes,
            source=self.source,
            adapted=self.adapted,
            scored_classes=self.scored_classes,
            groups=self.groups,
            alarms=self.run_alarms() + self._label_alarms(),
            seed=self.seed,
        )

    def run_alarms(self) -> list[Alarm]:
        """Returns what stages before the evaluation warn of: shared pictures, lost classes, a collapsed pretraining."""
        alarms = overlap_alarm(self.shared_faces, 0 if self.labels is None else len(self.labels))
        if self.pseudo_labels is not None:
            alarms += lost_class_alarm(self.pseudo_labels.quality(self.classes).lost_classes)
        for history in self.histories:
            alarms += collapse_alarms(history.collapse, history.name)
        return alarms

    def _label_alarms(self) -> list[Alarm]:
        """Returns what true labels tell of the pseudo-labels, which no stage before can know."""
        given = self.pseudo_labels
        if given is None or given.true_labels is None:
            return []
        return wrong_labels_alarm(given.quality(self.classes))


def render_report(data: ReportData) -> str:
    """Returns the report as one HTML page.

    Args:
        data: What to show.

    Raises:
        UserError: Parts of the data do not fit one another, or a value is NaN or infinite.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    evaluation = data.evaluated()
    parts = _sections(data, evaluation)
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))  # noqa: S704 (our own file)
    return (
        environment.get_template("report.html.jinja")
        .render(
            title=data.title,
            subtitle=data.subtitle,
            style=style,
            verdict=evaluation.verdict,
            level=_level(evaluation.verdict, evaluation),
            tiles=sections.tiles(evaluation),
            alarms=evaluation.alarms,
            sections=parts,
            version=__version__,
        )
        .lstrip()
    )


def write_report(path: Path | str, data: ReportData) -> None:
    """Writes the report crash-safely as one HTML file.

    Args:
        path: The file.
        data: What to show.

    Raises:
        UserError: As in :func:`render_report`, or the folder cannot be written.
        RetryableError: The disk is full.
    """
    write_text(path, render_report(data))


def _sections(data: ReportData, evaluation: Evaluation) -> list[Section]:
    remarks = list(data.left_out)
    found: list[Section | None] = [
        sections.results(evaluation, {row.name: row.note for row in data.rows}),
        sections.classes(evaluation),
        sections.shares(evaluation),
        sections.confusion(evaluation),
        sections.calibration(evaluation),
        sections.groups(evaluation, data.group_name),
        sections.label_free(evaluation),
    ]
    if data.pseudo_labels is not None:
        found.append(record.pseudo_labels(data.pseudo_labels, data.classes))
    for index, history in enumerate(data.histories):
        found.append(record.curves(history, f"training-{index + 1}"))
    if data.embedding_points:
        features = {row.name: row.features for row in data.rows}
        section_or_none, missing = record.embeddings(evaluation, features, data.embedding_points, data.seed)
        found.append(section_or_none)
        remarks += missing
    found.append(record.run_record(data.parameters, data.lineage, data.times))
    found += [record.left_out(remarks + _own_remarks(data, evaluation)), record.reading()]
    return [section for section in found if section is not None]


def _own_remarks(data: ReportData, evaluation: Evaluation) -> list[str]:
    remarks = [
        f"{row.name} exposes no features: its logits served in their place."
        for row in data.rows
        if row.feature_kind == "logits" and row.features is not None
    ]
    values = len(evaluation.rows[evaluation.adapted].groups)
    if values > sections.MAX_GROUPS:
        remarks.append(f"The table by {data.group_name} is left out: {values:,} values are too many to read.")
    if not evaluation.labelled:
        remarks.append("Accuracy, class table, confusion matrices and calibration: there is no labelled holdout.")
    return remarks


def _level(verdict: Verdict, evaluation: Evaluation) -> str:
    if evaluation.source == evaluation.adapted and evaluation.labelled:
        return "One model"
    return _LEVELS[verdict.level]
