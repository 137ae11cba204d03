"""How many of an evaluation's rows are among the rows that its target was trained on.

>>> said(Contamination(rows=100, exact=5, near=7, of=["sql@v1"]))
'12 of 100 rows are among those of sql@v1: 5 exactly, 0 in another spelling, 7 nearly'
>>> said(Contamination(not_checked=["a@v1 was pushed, and what it was trained on is not known"]))
'not checked: a@v1 was pushed, and what it was trained on is not known'
>>> briefly(Contamination(rows=100, of=["sql@v1"])), briefly(None)
('0/100', '?')
"""

from __future__ import annotations

from sdk.schemas.wire import Wire


class Contamination(Wire):
    """Which of a dataset's rows are among the training rows of a version and of everything that it came from."""

    #: Rows of the evaluation's dataset, and how many of them occur there with the same fields, else with the same texts
    #: except for case, spaces and Unicode's form, else with most of their 13-grams; each row counts once. 0 if rows
    #: were not checked.
    rows: int = 0
    exact: int = 0
    normalised: int = 0
    near: int = 0
    #: The datasets that were checked, by NAME@vN or digest; empty: none.
    of: list[str] = []
    #: Why others, or all, could not be checked, each the rest of a sentence.
    not_checked: list[str] = []

    @property
    def found(self) -> int:
        """Rows that occur there in any way."""
        return self.exact + self.normalised + self.near


def said(found: Contamination | None) -> str:
    """Return it in words; None if the scores have not been checked yet."""
    if found is None:
        return "not checked: nobody has looked yet"
    parts = []
    if found.of:
        how = (
            f": {found.exact} exactly, {found.normalised} in another spelling, {found.near} nearly"
            if found.found
            else ""
        )
        parts.append(f"{found.found} of {found.rows} rows are among those of {', '.join(found.of)}{how}")
    if found.not_checked or not parts:
        parts.append(f"not checked: {'; '.join(found.not_checked) or 'nobody said why'}")
    return "; ".join(parts)


def briefly(found: Contamination | None) -> str:
    """Return it for a narrow column of a table: "?" means not checked, "+" not completely checked."""
    if found is None or not found.of:
        return "?"
    return f"{found.found}/{found.rows}" + ("+" if found.not_checked else "")


def warning(found: Contamination | None, *, is_base: bool) -> str | None:
    """Return it in words if readers of the scores should know; that nothing is known about a base is nothing new."""
    if found is not None and not found.found and (is_base or (found.of and not found.not_checked)):
        return None
    return said(found)
