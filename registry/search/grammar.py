"""The language of filters, from text to a tree and back.

::

    filter     = [ or ]
    or         = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | "(" or ")" | comparison
    comparison = field ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
               | field "in" "(" value { "," value } ")"
    field      = a word of `registry.search.fields.FIELDS`
               | "tag" "[" value "]"
               | "eval" "[" value "]" "." value
    value      = letters, digits and . _ / : @ + -, or any text in double quotes, in which \\" and \\\\ are " and \\

>>> tree = parse('base = tiny AND (rank>=8 or not alias ~ "prod*")')
>>> str(tree)
'base = tiny and (rank >= 8 or not alias ~ prod*)'
>>> parse(str(tree)) == tree
True
>>> parse("rnk = 8")
Traceback (most recent call last):
registry.errors.Invalid: column 1 of the filter: there is no field 'rnk', the nearest is 'rank'; write for example: \
rank >= 8

A tree is plain data: its values reach a database as bound parameters, never as text of a statement.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from registry.errors import Invalid
from registry.search.fields import FIELDS, KEYWORDS, And, Field, FieldComparison, FieldRule, Node, Not, Or, Value

#: How many characters a filter may have, as it is given and as `str` writes it.
MAX_CHARS = 4_000
MAX_COMPARISONS = 64
#: How deep brackets and `not`s may be nested.
MAX_NESTING = 16

_EXAMPLE = "base = SmolLM2-135M-Instruct and rank >= 8"
_SEVERAL = "rank in (8, 16, 32)"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<word>[A-Za-z0-9._/:@+*-]+)
      | (?P<quoted>"(?:[^"\\]|\\["\\])*")
      | (?P<mark><=|>=|!=|[=<>~(),\[\]])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r'\\(["\\])')
_UNFINISHED = re.compile(r'"(?:[^"\\]|\\["\\])*')
#: What databases can't store or UTF-8 can't write.
_UNKEPT = re.compile("[\0\ud800-\udfff]")


def parse(text: str) -> Node:
    """Return the tree of a filter. Raises Invalid, whose one sentence says where, what is expected, and an example."""
    if len(text) > MAX_CHARS:
        raise _refuse(MAX_CHARS + 1, f"it is longer than {MAX_CHARS:,} characters", _EXAMPLE)
    tree = _Parser(list(_tokens(text))).whole()
    if len(str(tree)) > MAX_CHARS:
        # Make sure that what `str` writes can be read again.
        raise _refuse(1, f"written out in full it is longer than {MAX_CHARS:,} characters", _EXAMPLE)
    return tree


def _refuse(column: int, problem: str, example: str) -> Invalid:
    return Invalid(f"column {column} of the filter: {problem}; write for example: {example}", param="filter")


@dataclass(frozen=True)
class _Token:
    #: "word", "quoted", "mark" or "end".
    kind: str
    #: Its text: for a quoted text, without quotes and escapes.
    text: str
    #: Counted from 1.
    column: int

    def says(self, *texts: str) -> bool:
        """Whether it is one of these marks or words of the grammar."""
        return self.kind in ("mark", "word") and self.text.lower() in texts

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end"
        return ascii(self.text if len(self.text) <= 40 else self.text[:37] + "...")


def _tokens(text: str) -> Iterator[_Token]:
    unkept = _UNKEPT.search(text)
    if unkept is not None:
        raise _refuse(unkept.start() + 1, f"{unkept[0]!a} can't be stored, so nothing has it", _EXAMPLE)
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _no_token(text, at)
        if match.lastgroup == "quoted":
            yield _Token("quoted", _ESCAPE.sub(r"\1", match[0][1:-1]), at + 1)
        elif match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], at + 1)
        at = match.end()
    yield _Token("end", "", len(text) + 1)


def _no_token(text: str, at: int) -> Invalid:
    unfinished = _UNFINISHED.match(text, at)
    if unfinished is None:
        problem = f"{text[at]!a} must be in double quotes"
        return _refuse(at + 1, problem, 'author = "Ada L."')
    end = unfinished.end()
    if end < len(text):
        return _refuse(end + 1, r'inside quotes, \ may stand before " or \ only', r'tag[path] = "C:\\data"')
    return _refuse(at + 1, "the closing quote is missing", 'tag[note] = "second try"')


class _Parser:
    """A walk over the tokens; each method reads what its name says and leaves the rest."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._comparisons = 0

    def whole(self) -> Node:
        """Read the whole filter."""
        if self._next.kind == "end":
            return And(())
        tree = self._or(0)
        if self._next.kind != "end":
            raise _refuse(self._next.column, f"'and', 'or' or the end is expected, not {self._next}", _EXAMPLE)
        return tree

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        # The end token is never consumed.
        self._at += token.kind != "end"
        return token

    def _or(self, depth: int) -> Node:
        parts = [self._and(depth)]
        while self._next.says("or"):
            self._take()
            parts.append(self._and(depth))
        flat = [piece for part in parts for piece in (part.parts if isinstance(part, Or) else (part,))]
        return flat[0] if len(flat) == 1 else Or(tuple(flat))

    def _and(self, depth: int) -> Node:
        parts = [self._not(depth)]
        while self._next.says("and"):
            self._take()
            parts.append(self._not(depth))
        flat = [piece for part in parts for piece in (part.parts if isinstance(part, And) else (part,))]
        return flat[0] if len(flat) == 1 else And(tuple(flat))

    def _not(self, depth: int) -> Node:
        if not self._next.says("not", "("):
            return self._comparison()
        opening = self._take()
        if depth == MAX_NESTING:
            raise _refuse(opening.column, f"it is nested more than {MAX_NESTING} deep", _EXAMPLE)
        if opening.says("not"):
            return Not(self._not(depth + 1))
        inner = self._or(depth + 1)
        self._expect(")", f"(rank = 8 or rank = 16) and {FIELDS['method'].example}")
        return inner

    def _comparison(self) -> FieldComparison:
        start = self._next.column
        field = self._field()
        rule = field.rule
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise _refuse(start, f"it has more than {MAX_COMPARISONS} comparisons", _SEVERAL)
        operator = self._take()
        if not operator.says(*rule.operators):
            taken = f"{', '.join(rule.operators[:-1])} or {rule.operators[-1]}"
            raise _refuse(operator.column, f"{rule.shown} takes {taken}, not {operator}", rule.example)
        sign = operator.text.lower()
        if sign != "in":
            return FieldComparison(field, sign, (self._value(rule, pattern=sign == "~"),))
        self._expect("(", _SEVERAL)
        values = [self._value(rule)]
        while self._next.says(","):
            self._take()
            values.append(self._value(rule))
        self._expect(")", _SEVERAL)
        return FieldComparison(field, sign, tuple(values))

    def _field(self) -> Field:
        word = self._take()
        if word.kind != "word" or word.says(*KEYWORDS):
            raise _refuse(word.column, f"a field, 'not' or '(' is expected, not {word}", _EXAMPLE)
        rule = FIELDS.get(word.text)
        if rule is None:
            raise _no_field(word)
        if "[" not in rule.shown:
            return Field(word.text)
        self._expect("[", rule.example)
        key = self._named(rule, "word", "quoted")
        self._expect("]", rule.example)
        return Field(word.text, key, self._metric(rule) if "." in rule.shown else "")

    def _metric(self, rule: FieldRule) -> str:
        dotted = self._take()
        if dotted.kind != "word" or not dotted.text.startswith(".") or "*" in dotted.text:
            raise _refuse(dotted.column, f"a dot and a metric's name are expected, not {dotted}", rule.example)
        return dotted.text[1:] or self._named(rule, "quoted")

    def _named(self, rule: FieldRule, *kinds: str) -> str:
        """Read the name of a key, a dataset or a metric, which is not empty."""
        token = self._take()
        if token.kind not in kinds:
            raise _refuse(token.column, f"a name is expected, not {token}", rule.example)
        self._require_plain(token, rule)
        if not token.text:
            raise _refuse(token.column, "a name is expected, not an empty one", rule.example)
        return token.text

    def _value(self, rule: FieldRule, *, pattern: bool = False) -> Value:
        token = self._take()
        if token.kind not in ("word", "quoted"):
            raise _refuse(token.column, f"{rule.takes} is expected, not {token}", rule.example)
        self._require_plain(token, rule, pattern=pattern)
        try:
            return rule.read(token.text)
        except ValueError:
            raise _refuse(token.column, f"{rule.shown} takes {rule.takes}, not {token}", rule.example) from None

    def _require_plain(self, token: _Token, rule: FieldRule, *, pattern: bool = False) -> None:
        """Raise Invalid for a word that has another meaning in this place."""
        if token.kind == "word" and token.text.lower() in KEYWORDS:
            problem = f"{token} is a word of the grammar, and as a value needs quotes"
            raise _refuse(token.column, problem, 'tag[join] = "and"')
        if token.kind == "word" and "*" in token.text and not pattern:
            example = rule.example if "~" in rule.example else "name ~ team/*"
            raise _refuse(token.column, f"{token} is a pattern, which must follow ~, or be in quotes", example)

    def _expect(self, mark: str, example: str) -> None:
        token = self._take()
        if not token.says(mark):
            raise _refuse(token.column, f"{mark!r} is expected, not {token}", example)


def _no_field(word: _Token) -> Invalid:
    near = difflib.get_close_matches(word.text, FIELDS, n=1)
    if near:
        problem = f"there is no field {word}, the nearest is {FIELDS[near[0]].shown!r}"
        return _refuse(word.column, problem, FIELDS[near[0]].example)
    known = ", ".join(rule.shown for rule in FIELDS.values())
    return _refuse(word.column, f"there is no field {word}, but {known}", _EXAMPLE)
