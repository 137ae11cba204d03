"""From the tokens of one answer to what its client is shown of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.pipelines.data.thoughts import Thoughts
from workers.serving.decoding.requests import Token
from workers.serving.texts.stops import StopTexts
from workers.serving.texts.texts import Detokenizer, TextPiece, TextVocabulary
from workers.serving.texts.thought_split import AnswerPart, ThoughtSplit


@dataclass(frozen=True)
class Delta:
    """What is new of an answer."""

    content: str = ""
    reasoning: str = ""
    #: The tokens of the content.
    tokens: tuple[Token, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything new."""
        return bool(self.content or self.reasoning or self.tokens)

    def __add__(self, other: Delta) -> Delta:
        """Return what is new with both, one after the other."""
        return Delta(self.content + other.content, self.reasoning + other.reasoning, self.tokens + other.tokens)


class AnswerStream:
    """One answer while it is generated. Stop texts end its content; in a reasoning they mean nothing."""

    def __init__(
        self,
        vocabulary: TextVocabulary,
        *,
        stops: Sequence[str] = (),
        thoughts: Thoughts | None = None,
        within: bool = False,
        raw: bool = False,
    ) -> None:
        """Without `thoughts` all is content; with `raw` control tokens are shown. `within`: the prompt ends in a thought."""
        self._detokenizer = Detokenizer(vocabulary)
        self._split = None if thoughts is None else ThoughtSplit(thoughts, within=within)
        self._stops, self._raw = StopTexts(stops), raw
        self._waiting: deque[Token] = deque()
        #: Pieces of the content that are not shown yet: where each begins and ends, in characters.
        self._spans: deque[tuple[int, int, tuple[Token, ...]]] = deque()
        self._given = self._shown = 0
        #: How many tokens were generated, with those of a stop text.
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop text has ended it."""
        return self._stops.stopped

    def add(self, token: Token) -> Delta:
        """Return what is new with one more token; nothing after a stop text."""
        if self.stopped:
            return Delta()
        self.tokens += 1
        self._waiting.append(token)
        return self._read(self._detokenizer.add(token.id))

    def end(self) -> Delta:
        """Return what was held back, when no token follows."""
        if self.stopped:
            return Delta()
        delta = self._read(self._detokenizer.end())
        if self._split is not None:
            delta += self._joined(self._split.end())
        if not self.stopped:
            delta += self._of(self._stops.end())
        return delta

    def _read(self, pieces: Iterable[TextPiece]) -> Delta:
        if self._split is not None:
            return self._joined(part for piece in pieces for part in self._split.add(piece))
        return self._joined(AnswerPart(piece.text if self._raw else piece.visible, piece.ids) for piece in pieces)

    def _joined(self, parts: Iterable[AnswerPart]) -> Delta:
        delta = Delta()
        for part in parts:
            for _ in range(part.passed):
                self._waiting.popleft()
            if part.reasoning:
                delta += Delta(reasoning=part.text)
                continue
            tokens = tuple(self._waiting.popleft() for _ in part.ids)
            self._spans.append((self._given, self._given + len(part.text), tokens))
            self._given += len(part.text)
            delta += self._of(self._stops.add(part.text))
            if self.stopped:
                break
        return delta

    def _of(self, text: str) -> Delta:
        """Return content that is shown now, with the tokens of which a part is shown and no more will be."""
        self._shown += len(text)
        tokens: tuple[Token, ...] = ()
        while self._spans:
            first, last, own = self._spans[0]
            if last > self._shown and not (self.stopped and first < self._shown):
                break
            tokens += own
            self._spans.popleft()
        return Delta(content=text, tokens=tokens)
