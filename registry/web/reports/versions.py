"""A version, and what names it, as sections of a report."""

from __future__ import annotations

from collections.abc import Sequence

from registry.db.paging import Paged
from registry.web.document import NOTHING, WHEN, Block, Cell, CellTable, FactList, Section, Sentences, names, ref
from sdk.schemas.aliases import AliasMoveView, AliasView
from sdk.schemas.catalog import VersionView

#: How many files are listed.
_MOST_FILES = 200


def aliases_section(adapter: str, aliases: Sequence[AliasView], moves: Paged[AliasMoveView]) -> Section:
    """Return what an adapter's aliases name, and how they moved."""
    rows = [[Cell(one.alias), ref(one.ref), Cell(f"{one.moved_at:{WHEN}}"), Cell(one.moved_by)] for one in aliases]
    heads = [Cell(text) for text in ("Alias", "Names", "Since, in UTC", "Moved by")]
    blocks: list[Block] = [CellTable("Aliases", heads, rows)] if rows else [Sentences([f"{adapter} has no alias."])]
    if moves.items:
        blocks.append(_moves(moves.items, more=moves.next is not None))
    return Section("Aliases", blocks)


def _moves(moves: Sequence[AliasMoveView], *, more: bool) -> CellTable:
    rows = [
        [
            Cell(f"{one.moved_at:{WHEN}}"),
            Cell(one.alias),
            Cell("–" if one.from_number is None else f"v{one.from_number}"),
            Cell("–" if one.to_number is None else f"v{one.to_number}"),
            Cell(one.moved_by),
            Cell(one.reason or "–"),
            Cell("–" if one.decision is None else f"{one.decision} {one.outcome or ''}".strip(), "ref"),
        ]
        for one in moves
    ]
    heads = [Cell(name) for name in ("Moved at, in UTC", "Alias", "From", "To", "By", "Reason", "Decision")]
    return CellTable(f"The last {len(rows)} moves" if more else "All moves", heads, rows)


def version_section(version: VersionView) -> Section:
    """Return what a version is and who made it."""
    facts = [
        ("Ref", ref(version.ref)),
        ("Digest", ref(version.digest)),
        ("State", Cell(version.state)),
        ("Kind", Cell(version.kind)),
        ("Aliases", names(version.aliases)),
        ("Tags", Cell(", ".join(f"{name}={value}" for name, value in version.tags.items()) or "–")),
        ("Description", Cell(version.description or "–")),
        ("Made by", Cell(version.created_by)),
        ("Made at", Cell(f"{version.created_at:{WHEN}} UTC")),
        ("Job", NOTHING if version.job is None else ref(f"{version.job.id}, attempt {version.job.attempt}")),
        ("Made from", Cell(", ".join(f"{one.ref} ({one.relation})" for one in version.parents) or "–")),
        ("Not known", Cell(", ".join(version.unknown) or "–")),
    ]
    blocks: list[Block] = [FactList(facts)]
    if version.warnings:
        blocks.append(Sentences(version.warnings))
    return Section("Version", blocks)


def files_section(version: VersionView) -> Section:
    """Return a version's files."""
    rows = [[ref(file.path), Cell(f"{file.size_bytes:,}", "number"), ref(file.sha256)] for file in version.files]
    heads = [Cell("File"), Cell("Bytes", "number"), Cell("SHA-256")]
    return Section("Files", [CellTable("Files", heads, rows[:_MOST_FILES])])
