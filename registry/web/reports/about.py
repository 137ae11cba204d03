"""The documents that reports are: about an adapter, about versions, about a sweep, about a decision."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from registry.catalog.aliases.service import Aliases
from registry.catalog.bases.names import Whose
from registry.catalog.versions.finding import space_of
from registry.catalog.versions.service import Catalog
from registry.datasets.finding import find_dataset
from registry.db.database import Database
from registry.errors import Invalid, NotFound
from registry.evaluations.comparing.service import Comparisons
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.principal import Principal
from registry.promotion.decisions import Decisions
from registry.series.curves import Curves
from registry.sweeps.service import Sweeps
from registry.web.comparing.sections import curves_section, scores_section, settings_section, versions_section
from registry.web.comparing.service import MOST_SIDES, ComparedSides, FoundSides
from registry.web.comparing.verdicts import RowQuestion, changed_rows, judge, verdict_section
from registry.web.document import (
    Block,
    Document,
    Section,
    Sentences,
    TextParts,
    part,
)
from registry.web.naming import names_of_datasets
from registry.web.reports.decisions import decision_sections
from registry.web.reports.query import ReportQuery
from registry.web.reports.sweeps import sweep_sections
from registry.web.reports.versions import aliases_section, files_section, version_section
from sdk.schemas.promotion_words import title_of

_SWEEP, _DECISION = "sweep:", "decision:"
#: What curves of a report show.
_KEYS = ("loss", "eval_loss", "lr")
#: How many moves of aliases are shown.
_MOVES = 20
#: What evaluations keep of a completion.
_SAMPLED = (("prompt", "Prompt"), ("reference", "Expected"), ("completion", "Answer"))


@dataclass(frozen=True, eq=False)
class Documents:
    """The service that makes them, of what a caller may see."""

    _db: Database
    _catalog: Catalog
    _aliases: Aliases
    _evaluations: Evaluations
    _comparisons: Comparisons
    _sides: FoundSides
    _curves: Curves
    _sweeps: Sweeps
    _decisions: Decisions

    def about(self, asked: ReportQuery, *, who: Principal) -> Document:
        """Return the document of what is asked. Raises InvalidName, InvalidRef, NotFound, Invalid."""
        first = asked.of[0]
        alone = [one for one in asked.of if one.startswith(_DECISION) or (one.startswith(_SWEEP) and "/" not in one)]
        if alone and len(asked.of) > 1:
            raise Invalid(f"{alone[0][:80]} has a report of its own; name it alone", param="of")
        if alone and asked.rows:
            raise Invalid(
                f"a report on {first[:80]} holds no rows; leave --rows out, or compare versions or members: adapterctl report REF REF "
                "--rows N",
                param="rows",
            )
        if first.startswith(_DECISION):
            return self._decision(first.removeprefix(_DECISION), who)
        if alone:
            return self._sweep(first.removeprefix(_SWEEP), who)
        if len(asked.of) == 1 and "@" not in first and not first.startswith((_SWEEP, "base:")):
            return self._adapter(asked, who)
        whose = Whose(asked.base_namespace, asked.published)
        beside = self._sides.of(asked.of, who=who, scores_of=asked.scores_of, whose=whose)
        return self._single(beside, asked, who) if len(beside.sides) == 1 else self._several(beside, asked, who)

    # Versions.

    def _adapter(self, asked: ReportQuery, who: Principal) -> Document:
        (name,) = asked.of
        page = self._catalog.versions(adapter=name, archived=False, who=who, cursor=None, limit=MOST_SIDES)
        if not page.items:
            raise NotFound(
                f"{name} has no version that is ready; report on an archived one by its ref: adapterctl report {name}@vN",
                param="of",
            )
        notes = [f"only the {len(page.items)} newest versions are in this report"] if page.next else []
        beside = self._sides.beside(page.items, who=who, scores_of=asked.scores_of, notes=notes)
        aliases = self._aliases.list(adapter=name, who=who)
        moves = self._aliases.history(adapter=name, alias=None, who=who, cursor=None, limit=_MOVES)
        named = {f"{name}@{one.alias}": one.ref for one in aliases}
        # What runs in production is what all others have to beat.
        production = named.get(f"{name}@production")
        refs = [side.ref for side in beside.sides]
        against = asked.against or (production if production in refs else None)
        asked = asked.model_copy(update={"against": against})
        found = self._several(dataclasses.replace(beside, named=named), asked, who)
        return dataclasses.replace(
            found, title=name, sections=[found.sections[0], aliases_section(name, aliases, moves), *found.sections[1:]]
        )

    def _several(self, beside: ComparedSides, asked: ReportQuery, who: Principal) -> Document:
        judging = self._judging(beside, asked, who)
        judged = judge(self._comparisons, beside, judging, who=who)
        shown = 0 if judged.comparison is None else len(judged.comparison.examples)
        many = f"{len(beside.sides)} versions" if len(beside.versions) > 1 else f"{len(beside.sides)} targets"
        refs = [side.ref for side in beside.sides]
        return Document(
            title=", ".join(refs[:4]) + (f" and {len(refs) - 4} more" if len(refs) > 4 else ""),
            sections=[
                versions_section(beside),
                verdict_section(beside, judged),
                scores_section(beside),
                *self._drawn(beside, who),
                settings_section(beside),
                *changed_rows(judged),
            ],
            holds=f"{many} side by side: verdicts, scores, curves, configurations",
            namespaces=_namespaces(beside),
            datasets=frozenset({judged.comparison.dataset} if judged.comparison is not None and shown else ()),
            rows=shown,
            named=beside.named,
        )

    def _judging(self, beside: ComparedSides, asked: ReportQuery, who: Principal) -> RowQuestion:
        against = asked.against
        if against is not None and against not in {side.ref for side in beside.sides}:
            # It may have been named by an alias, as the others.
            against = beside.named.get(against) or self._sides.of([against], who=who).sides[0].ref
        data = None
        if asked.data is not None:
            with self._db.read() as session:
                data = find_dataset(session, asked.data, who, removed=True).row.digest
        return RowQuestion(
            against=against,
            metric=asked.metric,
            data=data,
            by=asked.by,
            detect=asked.detect,
            rows=asked.rows,
            scores_of=asked.scores_of,
            whose=Whose(asked.base_namespace, asked.published),
        )

    def _single(self, beside: ComparedSides, asked: ReportQuery, who: Principal) -> Document:
        (side,) = beside.sides
        version = side.version
        sections = [versions_section(beside) if version is None else version_section(version)]
        sections += [scores_section(beside)]
        if version is not None:
            sections += [*self._drawn(beside, who), settings_section(beside), files_section(version)]
        samples = self._samples(beside, asked.rows, who)
        if asked.rows:
            shown: list[Block] = [sample for _, sample in samples]
            sections.append(Section("Samples", shown or [Sentences(["No sample of its answers is kept."])]))
        return Document(
            title=side.ref,
            sections=sections,
            holds="one version: scores, curves, configuration, files" if version is not None else "one base: scores",
            namespaces=_namespaces(beside),
            datasets=frozenset(dataset for dataset, _ in samples),
            rows=len(samples),
            named=beside.named,
        )

    def _samples(self, beside: ComparedSides, most: int, who: Principal) -> list[tuple[str, TextParts]]:
        """Samples of the newest evaluations, which are read one by one, of 10 at most; each with its dataset."""
        found: list[tuple[str, TextParts]] = []
        for one in beside.sides[0].evaluations[:10]:
            if len(found) >= most:
                break
            page = self._evaluations.list(EvaluationQuery(id=one.id, limit=1), who=who)
            for number, sample in enumerate(page.items[0].samples if page.items else [], start=1):
                parts = [part(title, sample[name]) for name, title in _SAMPLED if name in sample]
                found.append(
                    (one.dataset, TextParts(f"Sample {number} of {one.id}, on {beside.datasets[one.dataset]}", parts))
                )
        return found[:most]

    def _drawn(self, beside: ComparedSides, who: Principal) -> list[Section]:
        refs = [version.ref for version in beside.versions]
        return [curves_section(self._curves.draw(refs=refs, keys=_KEYS, who=who))] if refs else []

    # Sweeps and decisions.

    def _sweep(self, ident: str, who: Principal) -> Document:
        view = self._sweeps.get(ident, who=who)
        refs = [f"{_SWEEP}{view.id}/{member.number}" for member in view.members if member.job][:MOST_SIDES]
        sections = sweep_sections(view)
        if refs:
            sections.append(curves_section(self._curves.draw(refs=refs, keys=_KEYS, who=who)))
        if len(view.members) > MOST_SIDES:
            note = Sentences([f"Only the first {MOST_SIDES} of {len(view.members)} members are drawn."])
            sections.append(Section("Members without a curve here", [note]))
        return Document(
            title=f"{_SWEEP}{view.id} of {view.adapter}",
            sections=sections,
            holds="a sweep: its settings, members, verdict and curves",
            namespaces=frozenset({space_of(view.adapter)}),
        )

    def _decision(self, ident: str, who: Principal) -> Document:
        decision = self._decisions.show(ident, who=who)
        with self._db.read() as session:
            names = names_of_datasets(session, {one for rule in decision.rules for one in rule.data}, who)
        return Document(
            title=title_of(decision),
            sections=decision_sections(decision, names),
            holds="a decision: what each rule found",
            namespaces=frozenset({space_of(decision.adapter)}),
        )


def _namespaces(beside: ComparedSides) -> frozenset[str]:
    """The namespaces of what is shown, and those whose jobs made the scores of it."""
    return frozenset(
        {side.namespace for side in beside.sides} | {one.namespace for row in beside.scores for one in row.of.values()}
    )
