"""Labels of a classification: two names that look the same are the same, and the order is the same everywhere.

>>> label_name(3), label_name("spam"), ordered({"10", "9"}), ordered({"b", "10", "9"})
('3', 'spam', ['9', '10'], ['10', '9', 'b'])
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from typing import Any

from sdk.formats.row_bounds import EmptyField, kind_of

MAX_LABELS, MAX_LABEL_CHARACTERS = 1000, 100
#: The most characters with which a character in NFC may be written.
_SPELT = 4
_TOO_LONG = f"has a `label` of more than {MAX_LABEL_CHARACTERS} characters"
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)


def label_name(value: Any) -> str:
    """Return the name of a row's label: a text, or a whole number, whose name is its digits. Raises ValueError.

    Texts are normalised to Unicode's NFC, in which letters with accents have one spelling.
    """
    if value is None:
        raise EmptyField("has no `label`")
    if type(value) is int:
        return _checked(str(value))
    if not isinstance(value, str):
        raise ValueError(f"has a `label` that is neither a text nor a whole number but {kind_of(value)}")
    if len(value.strip()) > _SPELT * MAX_LABEL_CHARACTERS:
        # This holds whatever its form; normalising may take quadratic time.
        raise ValueError(_TOO_LONG)
    return _checked(unicodedata.normalize("NFC", value))


def _checked(name: str) -> str:
    if not name.strip():
        raise EmptyField("has an empty `label`")
    if name != name.strip():
        raise ValueError(f"has a `label` with spaces around it, {name[:MAX_LABEL_CHARACTERS]!a}")
    if len(name) > MAX_LABEL_CHARACTERS:
        raise ValueError(_TOO_LONG)
    # Persian is spelt with the first of the joiners, and some emoji are made with the second.
    if not name.replace("\u200c", "").replace("\u200d", "").isprintable():
        raise ValueError(f"has a `label` with characters that can't be shown, {name!a}")
    return name


def ordered(labels: Collection[str]) -> list[str]:
    """Return distinct labels in the order in which they are numbered from 0: whole numbers by size, names by their
    characters.
    """
    distinct = set(labels)
    if all(_WHOLE.fullmatch(label) for label in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def classes_of(labels: Collection[str]) -> list[str]:
    """Return the labels that a training on these rows distinguishes, in order. Raises ValueError for too few or too many."""
    found = ordered(labels)
    if len(found) == 1:
        raise ValueError(f"all rows have the label {found[0]!r}, which teaches nothing; add rows with another label")
    if len(found) > MAX_LABELS:
        raise ValueError(
            f"the rows have {len(found)} different labels, and at most {MAX_LABELS} are allowed; check whether `label` is the right column"
        )
    return found
