"""The grammar of a safetensors header, as expressions over its bytes.

Repetitions are possessive: there is no backtracking, so the time depends only on the length.
"""

from __future__ import annotations

import re

NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,499}")
#: The tensors of a base may have any names.
ANY_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.\-/:]{0,499}")
MAX_NAME_LETTERS = 500

_W = rb"[ \t\n\r]*+"
_INT = rb"(?:0|[1-9][0-9]{0,18})"
_COLON, _COMMA = _W + rb":" + _W, _W + rb"," + _W
_DTYPE = rb'"dtype"' + _COLON + rb'"([A-Za-z0-9_]{1,20})"'
_SHAPE = rb'"shape"' + _COLON + rb"\[" + _W + rb"((?:" + _INT + rb"(?:" + _COMMA + _INT + rb")*+)?)" + _W + rb"\]"
_OFFSETS = (
    rb'"data_offsets"' + _COLON + rb"\[" + _W + rb"(" + _INT + rb")" + _COMMA + rb"(" + _INT + rb")" + _W + rb"\]"
)
KEY = re.compile(_W + rb'"([^"\\\x00-\x1f]*+)"' + _COLON)
#: The fields in the order in which the library writes them, as in nearly every file.
ENTRY = re.compile(rb"\{" + _W + _DTYPE + _COMMA + _SHAPE + _COMMA + _OFFSETS + _W + rb"\}")
FIELD = re.compile(rb"(?:" + _DTYPE + rb"|" + _SHAPE + rb"|" + _OFFSETS + rb")" + _W)
OPEN, NEXT, CLOSE = re.compile(rb"\{" + _W), re.compile(rb"," + _W), re.compile(rb"\}")
BETWEEN = re.compile(_W + rb"([,}])")
TRAILING = re.compile(_W)
#: A JSON string; halves of surrogate pairs stand for no character, and are refused.
_TEXT = (
    rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u(?:[0-9a-cefA-CEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}'
    rb'|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*+"'
)
#: A key as any JSON string, including backslashes.
ANY_KEY = re.compile(_W + rb"(" + _TEXT + rb")" + _COLON)
METADATUM = re.compile(_W + rb"(" + _TEXT + rb")" + _COLON + _TEXT + _W)
