"""What the page of a version shows, read from the services of the rooms that have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.artifacts.long_facts import TurnNeededError, holding_facts
from registry.catalog.bases.finding import find_visible
from registry.catalog.versions.claims import ClaimedVersions
from registry.catalog.versions.finding import exact_ref, find_adapter, find_version, space_of
from registry.catalog.versions.served_probes import ServedProbes
from registry.catalog.versions.service import Catalog
from registry.db.database import Database
from registry.errors import Invalid, InvalidName, NotFound
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.jobs.models import Job
from registry.lineage.service import Lineages
from registry.principal import Principal
from registry.search.adapters import FIRST_ALIAS
from registry.signatures.service import Signatures
from registry.web.naming import NamedDatasets
from registry.web.rendering import size
from registry.web.versions.commands import BasePlace, Command, commands_of
from registry.web.versions.heat_map import HeatMap, heat_map
from registry.web.versions.lineage_map import STEPS, LineageMap, lineage_map
from sdk.formats.refs import Ref
from sdk.schemas.artifacts import SignatureView
from sdk.schemas.catalog import KEPT, VersionView
from sdk.schemas.claimed_facts import claimed_facts
from sdk.schemas.claims import ClaimsView
from sdk.schemas.evaluation import is_score
from sdk.schemas.lineage import JobNode, Lineage
from sdk.schemas.probe import ProbeReport, VersionNorms, recorded_probe
from sdk.schemas.scores import EvaluationView
from sdk.schemas.serving import ServedProbeView
from sdk.schemas.version_facts import facts_of

#: How many evaluations, and how many scores of each, are on the page.
MOST_EVALUATIONS, MOST_SCORES = 20, 8
#: How many modules a table of norms has.
MOST_MODULES = 5_000


@dataclass(frozen=True)
class VersionPage:
    """All that is on the page."""

    view: VersionView
    facts: list[tuple[str, Any]]
    commands: list[Command]
    heat: HeatMap | None
    #: Whether norms are too many to be read for a page; they have one of their own.
    norms_apart: bool
    norms: VersionNorms | None
    probe: ProbeReport | None
    served: ServedProbeView | None
    signatures: Sequence[SignatureView]
    evaluations: Sequence[EvaluationView]
    #: The scores that the evaluations have, as many as there is room for.
    scores: tuple[str, ...]
    more_evaluations: bool
    #: What datasets are called, by digest, as far as the reader may know.
    dataset_names: Mapping[str, str]
    #: What it is put beside: its ref and, unless it is that itself, the version in production.
    beside: str
    #: Whether the reader may have aliases name it.
    may_move: bool
    lineage: LineageMap | None
    #: What is claimed of it, under names for people, and what that is worth; none: nothing is.
    claimed: Sequence[tuple[str, Any]] = ()
    claims: ClaimsView | None = None


class VersionPages:
    """The service of the pages of versions."""

    def __init__(
        self,
        db: Database,
        *,
        catalog: Catalog,
        claimed: ClaimedVersions,
        served_probes: ServedProbes,
        signatures: Signatures,
        evaluations: Evaluations,
        lineages: Lineages,
        names: NamedDatasets,
    ) -> None:
        self._db = db
        self._catalog, self._served_probes, self._signatures = catalog, served_probes, signatures
        self._claimed = claimed
        self._evaluations, self._lineages, self._names = evaluations, lineages, names

    def show(self, ref: str, *, who: Principal) -> VersionPage:
        """Return what is shown of the version that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
        with self._db.one_state():
            view = self._catalog.resolve(ref, who=who)
            is_version = view.state != KEPT
            served = self._served(view, who) if is_version else None
            claims = self._claimed.of(view, who=who) if is_version else None
            signatures = self._signatures.list(view.digest, who=who) if is_version else ()
            found = self._scores(view, who)
            names = self._names.of({one.dataset for one in found}, who=who)
            beside = self._beside(view, who)
            traced = self._trace(view, who) if is_version else None
            place, was_trained = self._made(view, traced, who)
        # It may read a file.
        norms, apart = self._norms(view, who) if is_version else (None, False)
        scores = sorted({name for one in found for name in one.metrics if is_score(name)}, key=_first)
        return VersionPage(
            view=view,
            facts=facts_of(view, norms, size=size),
            commands=commands_of(view, place, is_proved=served is not None, was_trained=was_trained),
            heat=None if norms is None or norms.norms is None else heat_map(norms.norms),
            norms_apart=apart,
            norms=norms,
            probe=recorded_probe(view.metrics, view.record),
            served=served,
            signatures=signatures,
            evaluations=found[:MOST_EVALUATIONS],
            scores=tuple(scores[:MOST_SCORES]),
            more_evaluations=len(found) > MOST_EVALUATIONS,
            dataset_names=names,
            beside=beside,
            may_move=view.state == "ready" and who.may("write", space_of(view.adapter)),
            lineage=None if traced is None else lineage_map(traced),
            claimed=() if claims is None else claimed_facts(claims),
            claims=claims,
        )

    def is_adapter(self, name: str, *, who: Principal) -> bool:
        """Whether the reader may see an adapter with this name."""
        try:
            with self._db.read() as session:
                find_adapter(session, name, who)
        except (NotFound, InvalidName):
            return False
        return True

    def norms(self, ref: str, *, wait_s: float, who: Principal) -> VersionNorms:
        """Return the norms of the modules of a version. Raises what `Catalog.norms` does."""
        with holding_facts(wait_s=wait_s):
            return self._catalog.norms(ref, who=who)

    def _norms(self, view: VersionView, who: Principal) -> tuple[VersionNorms | None, bool]:
        try:
            return self.norms(view.ref, wait_s=0, who=who), False
        except TurnNeededError:
            return None, True

    def _served(self, view: VersionView, who: Principal) -> ServedProbeView | None:
        try:
            return self._served_probes.get(view.ref, who=who)
        except NotFound:
            return None

    def _scores(self, view: VersionView, who: Principal) -> list[EvaluationView]:
        asked = EvaluationQuery(digest=view.digest, namespace=space_of(view.adapter), limit=MOST_EVALUATIONS + 1)
        return list(self._evaluations.list(asked, who=who).items)

    def _beside(self, view: VersionView, who: Principal) -> str:
        if view.number is None or FIRST_ALIAS in view.aliases:
            return view.ref
        try:
            with self._db.read() as session:
                production = exact_ref(find_version(session, Ref(view.adapter, FIRST_ALIAS), who))
        except NotFound:
            return view.ref
        return view.ref if production == view.ref else f"{production} {view.ref}"

    def _made(self, view: VersionView, traced: Lineage | None, who: Principal) -> tuple[BasePlace, bool]:
        """Where its base is, as the reader knows it, and whether a training that the reader may see made it."""
        with self._db.read() as session:
            try:
                location = find_visible(session, view.base.fingerprint, who).location
            except (NotFound, Invalid):
                location = None
            place = BasePlace.of(location, view)
            if view.job is None:
                return place, False
            if traced is not None:
                made = {node.id: node.job_kind for node in traced.nodes if isinstance(node, JobNode)}
                return place, made.get(view.job.id) == "training"
            job = session.get(Job, view.job.id)
            return place, job is not None and job.kind == "training" and who.may("read", job.namespace)

    def _trace(self, view: VersionView, who: Principal) -> Lineage | None:
        if view.number is None:
            return None
        return self._lineages.trace(of=view.ref, direction="both", depth=STEPS, who=who)


def _first(name: str) -> tuple[int, str]:
    """The order in which scores are shown."""
    order = ("loss", "accuracy", "macro_f1", "rouge_l", "exact_match", "perplexity")
    return (order.index(name) if name in order else len(order), name)
