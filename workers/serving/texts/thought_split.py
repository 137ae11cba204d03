"""What of an answer is its reasoning and what its content, while it arrives.

Joined, it is what `workers.pipelines.data.thoughts.read_answer` reads in the whole answer, without the blanks between the
two.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from workers.pipelines.data.thoughts import Thoughts
from workers.serving.texts.texts import TextPiece


class AnswerPart(NamedTuple):
    """A piece of an answer's content, or of its reasoning."""

    text: str
    #: The tokens of a content's piece; a reasoning's are not told apart from the marks around it.
    ids: tuple[int, ...]
    reasoning: bool = False
    #: How many tokens were used up before those: of reasoning, marks and headers.
    passed: int = 0


class _At(Enum):
    START = auto()
    THOUGHT = auto()
    CONTENT = auto()


class ThoughtSplit:
    """Reads leading thoughts and headers; whatever follows them is content."""

    def __init__(self, thoughts: Thoughts, *, within: bool) -> None:
        """`within`: whether the prompt ends within a thought."""
        self._thoughts = thoughts
        self._openings = tuple(notation.opens for notation in thoughts.notations)
        self._within, self._at = within, _At.START
        self._closes: tuple[str, ...] = ()
        #: What is not decided yet: pieces, and their text without what is used up.
        self._pieces: list[TextPiece] = []
        self._text = ""
        #: Blanks of a thought that are left out at its ends, whether the thought has a text, and whether any had.
        self._blanks, self._begun, self._reasoned = "", False, False
        #: Whether something came before the content, so that blanks at its beginning are no part of it.
        self._led = False

    def add(self, piece: TextPiece) -> list[AnswerPart]:
        """Return what is decided with one more piece."""
        if self._at is _At.CONTENT:
            return list(self._content([piece]))
        self._pieces.append(piece)
        self._text += piece.text
        return list(self._decided(ended=False))

    def end(self) -> list[AnswerPart]:
        """Return what is left when no piece follows."""
        return [] if self._at is _At.CONTENT else list(self._decided(ended=True))

    def _decided(self, *, ended: bool) -> Iterator[AnswerPart]:
        while self._at is not _At.CONTENT:
            step = self._start if self._at is _At.START else self._thought
            parts = step(ended)
            if parts is None:
                return
            yield from parts

    def _start(self, ended: bool) -> list[AnswerPart] | None:
        """Read the beginning of a thought, a header, or of the content; None: it takes more text."""
        found = self._text.lstrip()
        blanks = len(self._text) - len(found)
        marks = self._openings if self._within else (*self._openings, *self._thoughts.headers)
        if not ended and any(mark.startswith(found) and mark != found for mark in marks):
            return None
        opened = next((each for each in self._thoughts.notations if found.startswith(each.opens)), None)
        if opened is not None or self._within:
            self._closes = (
                opened.closes
                if opened is not None
                else tuple(close for notation in self._thoughts.notations for close in notation.closes)
            )
            self._at, self._within, self._begun, self._blanks = _At.THOUGHT, False, False, ""
            self._led = True
            return self._used(blanks + len(opened.opens) if opened is not None else 0)
        header = next((each for each in self._thoughts.headers if found.startswith(each)), None)
        if header is not None:
            self._led = True
            return self._used(blanks + len(header))
        self._at = _At.CONTENT
        pieces, self._pieces, self._text = self._pieces, [], ""
        return list(self._content(pieces))

    def _thought(self, ended: bool) -> list[AnswerPart] | None:
        """Read a thought up to its end; None: it takes more text."""
        closed = min((place for close in self._closes if (place := self._text.find(close)) >= 0), default=None)
        partial = None if ended else self._partial()
        if closed is not None and (partial is None or closed < partial):
            close = max((each for each in self._closes if self._text.startswith(each, closed)), key=len)
            parts = self._reasoning(self._text[:closed])
            self._at = _At.START
            return [*parts, *self._used(closed + len(close))]
        shown = len(self._text) if partial is None else partial
        if not shown:
            if ended:
                self._at = _At.CONTENT
                return []
            return None
        text = self._text[:shown]
        return [*self._reasoning(text), *self._used(shown)]

    def _partial(self) -> int | None:
        """Return where the text may go on as the end of a thought; None if nowhere."""
        longest = max(map(len, self._closes))
        for place in range(max(0, len(self._text) - longest + 1), len(self._text)):
            rest = self._text[place:]
            if any(close.startswith(rest) and close != rest for close in self._closes):
                return place
        return None

    def _reasoning(self, text: str) -> list[AnswerPart]:
        """Return what is shown of a thought's text: without blanks around, and with a line break between two thoughts."""
        shown = text.rstrip()
        if not self._begun:
            shown = shown.lstrip()
            if not shown:
                return []
            lead, self._begun = ("\n" if self._reasoned else ""), True
            self._reasoned, self._blanks = True, text[len(text.rstrip()) :]
            return [AnswerPart(lead + shown, (), reasoning=True)]
        if not shown:
            self._blanks += text
            return []
        blanks, self._blanks = self._blanks, text[len(shown) :]
        return [AnswerPart(blanks + shown, (), reasoning=True)]

    def _used(self, count: int) -> list[AnswerPart]:
        """Take characters off what is not decided, and the tokens of pieces that are used up."""
        self._text = self._text[count:]
        passed = 0
        while self._pieces and (count or not self._pieces[0].text):
            piece = self._pieces[0]
            if count < len(piece.text):
                # The rest of it may be the beginning of a content.
                self._pieces[0] = TextPiece(piece.text[count:], piece.ids, piece.special)
                break
            count -= len(piece.text)
            passed += len(piece.ids)
            del self._pieces[0]
        return [AnswerPart("", (), reasoning=True, passed=passed)] if passed else []

    def _content(self, pieces: list[TextPiece]) -> Iterator[AnswerPart]:
        for piece in pieces:
            text = piece.visible
            if self._led:
                text = text.lstrip()
                self._led = not text
            yield AnswerPart(text, piece.ids)
