"""How many rows that scores were taken on are among the rows that their target was trained on.

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
    """What of a dataset's rows is among the training rows of a version and of all that it came from."""

    #: Rows of the evaluation's dataset, and how many of them are there with the same fields, else with the same texts but for
    #: case, spaces and Unicode's form, else with most of their 13-grams; each row counts once. 0 of rows that were not checked.
    rows: int = 0
    exact: int = 0
    normalised: int = 0
    near: int = 0
    #: The datasets that were looked at, by NAME@vN or digest; empty: none.
    of: list[str] = []
    #: Why others, or all, could not be, each the rest of a sentence.
    not_checked: list[str] = []

    @property
    def found(self) -> int:
        """Rows that are there in any way."""
        return self.exact + self.normalised + self.near


def said(found: Contamination | None) -> str:
    """Return it in words; None is of scores that were not looked at yet."""
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
    """Return it for a narrow column of a table: "?" is not checked, and "+" not all of it."""
    if found is None or not found.of:
        return "?"
    return f"{found.found}/{found.rows}" + ("+" if found.not_checked else "")


def warning(found: Contamination | None, *, is_base: bool) -> str | None:
    """Return it in words where somebody who reads the scores should know; of a base that nothing is known of is no news."""
    if found is not None and not found.found and (is_base or (found.of and not found.not_checked)):
        return None
    return said(found)
