"""Schedules in Kubeflow, by name: what Kubeflow cannot change is made anew and the old one removed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...common.errors import expected, unknown
from .kubeflow import Kubeflow, Uploaded

_PAGE = 100
_FIELDS = 6
_FIELD = re.compile(r"[\dA-Za-z*/,?#-]+")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Schedule:
    """A schedule in Kubeflow.

    Attributes:
        id: Its id.
        name: Its name.
        cron: When it starts runs, six fields with the seconds first, in the server's time zone; empty for a period.
        active: Whether it starts runs now.
        version: Id of the pipeline's version that it runs.
        parameters: The pipeline's parameters.
    """

    id: str
    name: str
    cron: str
    active: bool
    version: str
    parameters: Mapping[str, Any]


def cron_of(text: str) -> str:
    """Returns a cron expression as Kubeflow wants it, with seconds; the usual five fields get a second of 0.

    Raises:
        UserError: It has another number of fields, or a field is none.
    """
    given = text.split()
    entries = ["0", *given] if len(given) == _FIELDS - 1 else given
    if len(entries) != _FIELDS or not all(map(_FIELD.fullmatch, entries)):
        fix = "Write minute, hour, day, month, weekday, such as '0 3 * * *' for every night at three."
        raise expected("cron", "five fields, or six with the seconds first", text, fix)
    return " ".join(entries)


class Schedules:
    """The schedules of a Kubeflow.

    Args:
        kubeflow: Where they are.
    """

    def __init__(self, kubeflow: Kubeflow) -> None:
        self.kubeflow = kubeflow

    def all(self) -> list[Schedule]:
        """Returns all of them, by name.

        Raises:
            FerryError: As for :class:`~ferry.pipelines.cluster.kubeflow.Kubeflow`.
        """
        with self.kubeflow.translated():
            return sorted((_schedule(one) for one in self._listed()), key=lambda one: (one.name, one.id))

    def put(
        self,
        name: str,
        cron: str,
        uploaded: Uploaded,
        values: Mapping[str, Any],
        *,
        experiment: str = "ferry",
        service_account: str = "",
    ) -> tuple[Schedule, int]:
        """Makes a schedule; those of the same name go when it is there.

        One run at a time, and what was missed while it was paused is not made up for.

        Args:
            name: Its name.
            cron: When, from :func:`cron_of`.
            uploaded: The pipeline's version that it runs.
            values: The pipeline's parameters.
            experiment: Name of the experiment; made where there is none.
            service_account: Of the pods; Kubeflow's where empty.

        Returns:
            The schedule, and how many of the same name it replaced.

        Raises:
            FerryError: As for :class:`~ferry.pipelines.cluster.kubeflow.Kubeflow`; or the name cannot be one.
        """
        if not _NAME.fullmatch(name):
            raise expected("name", "lower-case letters, digits and dashes", name, "Write, for example, nightly.")
        before = [one for one in self.all() if one.name == name]
        client, namespace = self.kubeflow.client, self.kubeflow.address.namespace or None
        with self.kubeflow.translated():
            made = client.create_recurring_run(
                client.create_experiment(experiment, namespace=namespace).experiment_id,
                name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(values),
                pipeline_id=uploaded.pipeline,
                version_id=uploaded.version,
                service_account=service_account or None,
            )
            for one in before:
                client.delete_recurring_run(one.id)
        return _schedule(made), len(before)

    def pause(self, name: str) -> None:
        """Lets a schedule start no more runs; those at work go on."""
        for one in self._named(name):
            with self.kubeflow.translated():
                self.kubeflow.client.disable_recurring_run(one.id)

    def resume(self, name: str) -> None:
        """Lets a paused schedule start runs again, from its next time on."""
        for one in self._named(name):
            with self.kubeflow.translated():
                self.kubeflow.client.enable_recurring_run(one.id)

    def delete(self, name: str) -> None:
        """Removes a schedule; its runs stay."""
        for one in self._named(name):
            with self.kubeflow.translated():
                self.kubeflow.client.delete_recurring_run(one.id)

    def _named(self, name: str) -> list[Schedule]:
        known = self.all()
        found = [one for one in known if one.name == name]
        if not found:
            raise unknown("name", name, sorted({one.name for one in known}) or ["none"])
        return found

    def _listed(self) -> Iterator[Any]:
        token, namespace = "", self.kubeflow.address.namespace or None
        while True:
            page = self.kubeflow.client.list_recurring_runs(token, page_size=_PAGE, namespace=namespace)
            yield from page.recurring_runs or ()
            token = page.next_page_token or ""
            if not token:
                return


def _schedule(one: Any) -> Schedule:
    cron = one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else ""
    reference = one.pipeline_version_reference
    return Schedule(
        one.recurring_run_id,
        one.display_name,
        cron or "",
        (one.status or one.mode) in ("ENABLED", "ENABLE"),
        reference.pipeline_version_id if reference else "",
        (one.runtime_config.parameters if one.runtime_config else None) or {},
    )
