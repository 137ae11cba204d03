"""The services of pages, joined over those of the registry; commands that ask an embedded registry do without."""

from __future__ import annotations

from typing import Any

from registry.app.services import Services
from registry.evaluations.version_scores import VersionScores
from registry.jobs.lines import JobLines
from registry.promotion.prospects import Prospects
from registry.search.adapters import AdapterSearch
from registry.web.adapters.actions import AdapterActions
from registry.web.adapters.service import AdapterPages
from registry.web.jobs.service import JobPages
from registry.web.naming import NamedDatasets
from registry.web.versions.service import VersionPages


class PageServices:
    """What the views of pages call; each asks for its service by class."""

    def __init__(self, services: Services) -> None:
        db = services.db
        self.adapter_search, self.version_scores, self.dataset_names = (
            AdapterSearch(db),
            VersionScores(db),
            NamedDatasets(db),
        )
        self.adapters = AdapterPages(
            services.catalog, services.aliases, self.version_scores, services.approvals, self.dataset_names
        )
        self.actions = AdapterActions(
            services.gate,
            Prospects(db),
            services.approvals,
            services.version_states,
            services.catalog,
            services.aliases,
        )
        self.versions = VersionPages(
            db,
            catalog=services.catalog,
            served_probes=services.served_probes,
            signatures=services.signatures,
            evaluations=services.evaluations,
            lineages=services.lineages,
            names=self.dataset_names,
        )
        self.job_lines = JobLines(db)
        self.jobs = JobPages(db, self.job_lines, services.jobs, services.checkpoints)

    def by_class(self) -> dict[type[Any], Any]:
        """Each service under its class."""
        return {type(service): service for service in vars(self).values()}
