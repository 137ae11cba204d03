"""Files whose rows can't be read as they are: compressed, in another encoding, or another program's.

>>> foreign(b"PK\\x03\\x04")
'is compressed (ZIP); give the file that is in it'
>>> foreign(b'{"text": "a"}') is None
True
"""

from __future__ import annotations

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "XZ",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
#: Byte order marks.
_WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def foreign(head: bytes) -> str | None:
    """Return what a file is by its first bytes, and what to do, as the rest of a sentence; None if it may have rows."""
    for begin, name in _COMPRESSED.items():
        if head.startswith(begin):
            return f"is compressed ({name}); give the file that is in it"
    for begin, name in _WIDE.items():
        if head.startswith(begin):
            return f"is in {name}; write it in UTF-8"
    if b"\0" in head and not head.startswith(b"PAR1"):
        return "is neither JSONL, CSV in UTF-8 nor Parquet (it has bytes that are not text); convert it"
    return None
