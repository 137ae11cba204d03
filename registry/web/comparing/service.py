"""What is put side by side: versions, members of sweeps and bare bases, with the scores that count for each.

However many they are, versions and their scores are read by a bounded number of statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import or_

from registry.catalog.bases.names import ANYBODYS, Whose
from registry.catalog.bases.service import Bases
from registry.catalog.versions.finding import find_versions, parse_ref_or_member, space_of
from registry.catalog.versions.present import present_all
from registry.catalog.versions.service import Catalog
from registry.db.database import Database
from registry.errors import Invalid, Unreadable
from registry.evaluations.service import Evaluations
from registry.evaluations.standing import Condition, of_base, of_versions, space_of_bases
from registry.principal import Principal
from registry.web.comparing.scores import ScoreRow, score_rows
from registry.web.naming import DatasetNames, names_of_datasets
from sdk.formats.refs import MemberRef, Ref
from sdk.schemas.catalog import BaseView, VersionView
from sdk.schemas.scores import EvaluationView

#: How many are put side by side, and how many of these may be members of sweeps or bare bases, which are read one by one.
MOST_SIDES, MOST_ONE_BY_ONE = 100, 10
#: How many evaluations are read for them, and how many bytes of those and of versions.
_MOST_EVALUATIONS, _MOST_BYTES = 500, 16 * 1024**2
_BASE = "base:"


@dataclass(frozen=True)
class ComparedSide:
    """One of what is put side by side."""

    #: The ref that always means it: "code-review@v3", "sweep:ID/N", "base:ID".
    ref: str
    #: None: it is a bare base.
    version: VersionView | None
    base: BaseView | None = None
    #: The namespace that it is in; of a bare base, the one whose scores count for it.
    namespace: str = "-"
    #: The scores that count for it, newest first.
    evaluations: Sequence[EvaluationView] = ()


@dataclass(frozen=True)
class ComparedSides:
    """All of them."""

    sides: Sequence[ComparedSide]
    #: What they were scored by, in rows of what may be compared.
    scores: Sequence[ScoreRow]
    #: Digest → name, of the datasets that the reader may know.
    datasets: DatasetNames
    #: A ref as it was given, whose meaning may move → what it means now.
    named: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def versions(self) -> list[VersionView]:
        """Those that are versions, or members of sweeps."""
        return [side.version for side in self.sides if side.version is not None]


@dataclass(frozen=True, eq=False)
class FoundSides:
    """The service that finds them."""

    _db: Database
    _catalog: Catalog
    _bases: Bases
    _evaluations: Evaluations

    def of(
        self, refs: Sequence[str], *, who: Principal, scores_of: str | None = None, whose: Whose = ANYBODYS
    ) -> ComparedSides:
        """Return what refs mean now, in their order, each once. Raises InvalidName, InvalidRef, NotFound, Invalid for too many."""
        refs = list(dict.fromkeys(refs))
        if len(refs) > MOST_SIDES:
            raise Invalid(
                f"{len(refs)} are more than the {MOST_SIDES} that are put side by side; name fewer", param="refs"
            )
        parsed = {ref: None if ref.startswith(_BASE) else parse_ref_or_member(ref) for ref in refs}
        singly = [ref for ref, one in parsed.items() if not isinstance(one, Ref)]
        if len(singly) > MOST_ONE_BY_ONE:
            raise Invalid(
                f"{len(singly)} members of sweeps and bare bases are more than {MOST_ONE_BY_ONE}; name fewer, or the whole sweep "
                "in a report: adapterctl report sweep:ID",
                param="refs",
            )
        versions = self._versions({ref: one for ref, one in parsed.items() if isinstance(one, Ref)}, who)
        versions |= {ref: self._catalog.resolve(ref, who=who) for ref in refs if isinstance(parsed[ref], MemberRef)}
        bases = {
            ref: self._bases.get(ref.removeprefix(_BASE), whose=whose, who=who) for ref in refs if parsed[ref] is None
        }
        named = {
            ref: versions[ref].ref
            for ref, one in parsed.items()
            if isinstance(one, Ref) and (one.alias is not None or one.selector == "latest")
        }
        found: list[VersionView | BaseView] = []
        for ref in refs:
            one = versions[ref] if ref in versions else bases[ref]
            if one not in found:
                found.append(one)
        return self.beside(found, named=named, who=who, scores_of=scores_of)

    def _versions(self, refs: Mapping[str, Ref], who: Principal) -> dict[str, VersionView]:
        if not refs:
            return {}
        with self._db.read() as session:
            rows = find_versions(session, list(refs.values()), who, most_bytes=_MOST_BYTES)
            views = {(view.adapter, view.digest): view for view in present_all(session, rows, who)}
            keys = [(row.adapter.name, row.digest) for row in rows]
        for key, ref in zip(keys, refs, strict=True):
            if key not in views:
                raise Unreadable(f"{ref} has a form that this release can't read; upgrade the registry")
        return {ref: views[key] for ref, key in zip(refs, keys, strict=True)}

    def beside(
        self,
        found: Iterable[VersionView | BaseView],
        *,
        who: Principal,
        named: Mapping[str, str] | None = None,
        scores_of: str | None = None,
        notes: Sequence[str] = (),
    ) -> ComparedSides:
        """Return what was found, with the scores that count for it. Raises NotFound for the scores of a namespace that the caller
        may not read, Invalid if it isn't clear whose scores of a bare base count.
        """
        found = list(found)
        spaces = {space_of(one.adapter) for one in found if isinstance(one, VersionView)}
        sides: list[ComparedSide] = []
        for one in found:
            if isinstance(one, VersionView):
                sides.append(ComparedSide(one.ref, one, namespace=space_of(one.adapter)))
            else:
                # With `scores_of`, nobody asks for the namespace.
                space = "-" if scores_of is not None and len(spaces) > 1 else space_of_bases(spaces, who)
                sides.append(ComparedSide(f"{_BASE}{one.id}", None, one, space))
        evaluations, are_all = self._counting(sides, who, scores_of)
        if not are_all:
            older = f"only the newest {len(evaluations)} scores are shown; name fewer versions to see older ones"
            notes = [*notes, older]
        sides = [_scored(side, evaluations, scores_of) for side in sides]
        scores, more = score_rows({side.ref: side.evaluations for side in sides})
        with self._db.read() as session:
            names = names_of_datasets(session, _datasets_of(sides), who)
        return ComparedSides(sides, scores, names, named or {}, [*notes, *more])

    def _counting(
        self, sides: Sequence[ComparedSide], who: Principal, scores_of: str | None
    ) -> tuple[Sequence[EvaluationView], bool]:
        """The evaluations that count for any of them, newest first, and whether these are all."""
        versions = [(side.version.digest, side.namespace) for side in sides if side.version is not None]
        conditions: list[Condition] = [of_versions(versions, who, scores_of)] if versions else []
        conditions += [
            of_base(who, side.base.fingerprint, namespace=side.namespace, scores_of=scores_of)
            for side in sides
            if side.base is not None
        ]
        if not conditions:
            return (), True
        return self._evaluations.newest_of(or_(*conditions), most=_MOST_EVALUATIONS, most_bytes=_MOST_BYTES)


def _scored(side: ComparedSide, evaluations: Sequence[EvaluationView], scores_of: str | None) -> ComparedSide:
    """Return one with those of the evaluations that count for it."""
    if side.version is not None:
        digest = side.version.digest
        own = [one for one in evaluations if one.digest == digest and (scores_of or one.namespace == side.namespace)]
    else:
        fingerprint = "" if side.base is None else side.base.fingerprint
        own = [
            one
            for one in evaluations
            if one.digest is None
            and one.base_fingerprint == fingerprint
            and (scores_of or one.namespace == side.namespace)
        ]
    return ComparedSide(side.ref, side.version, side.base, side.namespace, own)


def _datasets_of(sides: Iterable[ComparedSide]) -> set[str]:
    digests = {one.dataset for side in sides for one in side.evaluations}
    versions = [side.version for side in sides if side.version is not None]
    held_out = {one for version in versions if (one := version.record.eval_data) is not None}
    return digests.union(held_out, *(version.dataset.digests for version in versions if version.dataset is not None))
