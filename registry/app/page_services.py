"""The services of pages, each joined over those of the registry when a page first asks for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.app.services import Services
    from registry.evaluations.version_scores import VersionScores
    from registry.jobs.lines import JobLines
    from registry.search.adapters import AdapterSearch
    from registry.web.adapters.actions import AdapterActions
    from registry.web.adapters.service import AdapterPages
    from registry.web.jobs.service import JobPages
    from registry.web.naming import NamedDatasets
    from registry.web.versions.service import VersionPages


class PageServices:
    """What the views of pages call; each asks for its service by class."""

    def __init__(self, services: Services) -> None:
        self._services, self._db = services, services.db

    @cached_property
    def adapter_search(self) -> AdapterSearch:
        from registry.search.adapters import AdapterSearch

        return AdapterSearch(self._db)

    @cached_property
    def version_scores(self) -> VersionScores:
        from registry.evaluations.version_scores import VersionScores

        return VersionScores(self._db)

    @cached_property
    def dataset_names(self) -> NamedDatasets:
        from registry.web.naming import NamedDatasets

        return NamedDatasets(self._db)

    @cached_property
    def adapters(self) -> AdapterPages:
        from registry.web.adapters.service import AdapterPages

        return AdapterPages(
            self._db,
            self._services.catalog,
            self._services.aliases,
            self.version_scores,
            self._services.approvals,
            self.dataset_names,
        )

    @cached_property
    def actions(self) -> AdapterActions:
        from registry.promotion.prospects import Prospects
        from registry.web.adapters.actions import AdapterActions

        return AdapterActions(
            self._services.gate,
            Prospects(self._db),
            self._services.approvals,
            self._services.version_states,
            self._services.catalog,
            self._services.aliases,
        )

    @cached_property
    def versions(self) -> VersionPages:
        from registry.web.versions.service import VersionPages

        return VersionPages(
            self._db,
            catalog=self._services.catalog,
            claimed=self._services.claimed_versions,
            served_probes=self._services.served_probes,
            signatures=self._services.signatures,
            evaluations=self._services.evaluations,
            lineages=self._services.lineages,
            names=self.dataset_names,
        )

    @cached_property
    def job_lines(self) -> JobLines:
        from registry.jobs.lines import JobLines

        return JobLines(self._db)

    @cached_property
    def jobs(self) -> JobPages:
        from registry.web.jobs.service import JobPages

        return JobPages(self._db, self.job_lines, self._services.jobs, self._services.checkpoints)
