"""Questions in work: read one by one, and then answered together, a token of each in every pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from workers.serving.decoding.adapters import HeldVersion
from workers.serving.decoding.caches import join, keep
from workers.serving.decoding.passes import Tree
from workers.serving.decoding.requests import DecodeQuestion, Ended, EndReason, OnPiece, Token
from workers.serving.decoding.sampling import Chooser, NotANumber, scored

NOT_FINITE = "the model's numbers are not finite at this precision; serve it in float32"
_log = logging.getLogger(__name__)


class OpenAnswer:
    """A question, and how far its answer is."""

    def __init__(self, question: DecodeQuestion, version: HeldVersion, on_piece: OnPiece) -> None:
        self.question, self.version = question, version
        self._on_piece = on_piece
        self._chooser = Chooser(temperature=question.temperature, top_p=question.top_p, seed=question.seed)
        #: The tokens so far: the prompt's, then the answer's.
        self.tokens = list(question.prompt)
        #: Set by any thread; the loop looks before each pass.
        self.cancelled = False
        self.ended = False
        #: Whether who listens failed, and is called no more.
        self._deaf = False

    @property
    def most_tokens(self) -> int:
        """How many tokens the prompt and its answer have at most."""
        return len(self.question.prompt) + self.question.max_tokens

    @property
    def only_scores(self) -> bool:
        """Whether its prompt is scored, and nothing follows."""
        return self.question.scores_prompt and not self.question.max_tokens

    def score_prompt(self, logits: Any, start: int) -> None:
        """Say what the prompt's tokens score: `logits` are (seq, vocabulary), those after its tokens from `start` on."""
        if start == 0:
            self._say(Token(self.tokens[0], None))
        ids = self.question.prompt[start + 1 : start + 1 + len(logits)]
        plain = min(len(ids), max(0, self.question.scores_from - start - 1))
        for token in ids[:plain]:
            self._say(Token(token, None))
        if ids[plain:]:
            for each in scored(logits[plain : len(ids)], ids[plain:], self.question.logprobs or 0):
                self._say(each)

    def score_end(self, logits: Any) -> None:
        """Say all of the prompt's tokens, and what they score from where that is asked for: `logits` are those after its last tokens."""
        start = len(self.tokens) - len(logits)
        for token in self.tokens[: start + 1] if start else []:
            self._say(Token(token, None))
        self.score_prompt(logits, start)

    def take(self, logits: Any) -> None:
        """Choose the next token from (vocabulary,) logits and say it, or end."""
        question = self.question
        if not question.max_tokens:
            return self.end(EndReason.LENGTH)
        try:
            chosen = self._chooser.choose(logits)
        except NotANumber:
            return self.end(EndReason.FAILED, NOT_FINITE)
        if chosen in question.stop_ids:
            return self.end(EndReason.STOP)
        self.tokens.append(chosen)
        if question.logprobs is None:
            self._say(Token(chosen, None))
        else:
            self._say(*scored(logits[None], [chosen], question.logprobs))
        if len(self.tokens) >= self.most_tokens:
            self.end(EndReason.LENGTH)
        return None

    def end(self, reason: EndReason, error: str | None = None) -> None:
        """Say that the answer ended; later calls do nothing."""
        if not self.ended:
            self.ended = True
            self._say(Ended(reason, error))

    def _say(self, piece: Token | Ended) -> None:
        if self._deaf:
            return
        try:
            self._on_piece(piece)
        except Exception as error:  # noqa: BLE001 - who listens may fail, and the others' answers go on
            self.ended = self._deaf = True
            # Its message could have parts of the answer.
            _log.error("an answer ended: who listens to it raised %s", type(error).__name__)


class PromptReading:
    """A prompt that is being read."""

    def __init__(self, asked: OpenAnswer, *, part_tokens: int | None) -> None:
        """`part_tokens`: how many tokens are read in one pass; None: all of them."""
        self.asked = asked
        self.cache = asked.version.tree.new_cache()
        self._part = part_tokens or len(asked.tokens)
        self._at = 0

    @property
    def next_tokens(self) -> int:
        """How many tokens are read next."""
        return min(self._part, len(self.asked.tokens) - self._at)

    def step(self) -> bool:
        """Read the next part; return whether it was the last one, after which the first token is chosen."""
        asked, at = self.asked, self._at
        part = asked.tokens[at : at + self._part]
        done = at + len(part) == len(asked.tokens)
        # An answer that was begun has its prompt's scores.
        scores = asked.question.scores_prompt and len(asked.tokens) == len(asked.question.prompt)
        logits = asked.version.tree.read(
            torch.tensor([part], device=asked.version.tree.model.device),
            self.cache,
            names=[asked.version.label],
            lengths=[at],
            width=at,
            keep=0 if scores else 1,
        )[0]
        if scores:
            asked.score_prompt(logits, at)
        self._at += len(part)
        if done and not asked.ended:
            asked.take(logits[-1])
        return done


def read_together(rows: Sequence[OpenAnswer]) -> list[Any]:
    """Read whole texts that are only scored over one tree together; return the logits after the last tokens of each, from the one
    before the first that is scored, (seq, vocabulary).

    A beginning that several have is read once. Shorter texts are padded on the right, which no token before it can see.
    """
    tree, labels = rows[0].version.tree, [row.version.label for row in rows]
    # Before that, no logits are asked for.
    start = max(0, min(min(row.question.scores_from, len(row.tokens)) for row in rows) - 1)
    beginnings = [(row.version.label, tuple(row.tokens[:start])) for row in rows]
    once = list(dict.fromkeys(beginnings))
    cache = None
    if start and len(once) < len(rows):
        cache = tree.new_cache()
        _read(tree, [tokens for _, tokens in once], cache, [label for label, _ in once], at=0, keep=1)
        keep(cache, [once.index(each) for each in beginnings], cut=0)
    at = 0 if cache is None else start
    rest = [row.tokens[at:] for row in rows]
    logits = _read(tree, rest, cache, labels, at=at, keep=max(map(len, rest)) + at - start)
    return [each[: len(row.tokens) - start] for each, row in zip(logits, rows, strict=True)]


def _read(tree: Tree, texts: Sequence[Sequence[int]], cache: Any, labels: list[str], *, at: int, keep: int) -> Any:
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for place, text in enumerate(texts):
        tokens[place, : len(text)] = torch.tensor(text)
    lengths = [at] * len(texts)
    return tree.read(tokens.to(tree.model.device), cache, names=labels, lengths=lengths, width=at, keep=keep)


class Batch:
    """Questions whose answers are decoded together, over one tree and in one cache."""

    def __init__(self, reading: PromptReading) -> None:
        self.tree: Tree = reading.asked.version.tree
        self.rows = [reading.asked]
        self._cache = reading.cache
        #: How many tokens of each row are in the cache, and how wide it is.
        self._lengths = [len(reading.asked.tokens) - 1]
        self._width = self._lengths[0]

    def add(self, reading: PromptReading) -> None:
        """Add a question whose prompt was read."""
        join(self._cache, reading.cache)
        self.rows.append(reading.asked)
        self._lengths.append(len(reading.asked.tokens) - 1)
        self._width = max(self._width, self._lengths[-1])

    def step(self) -> None:
        """Decode the next token of each row."""
        last = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.tree.model.device)
        names = [row.version.label for row in self.rows]
        logits = self.tree.read(last, self._cache, names=names, lengths=self._lengths, width=self._width)[:, -1]
        self._width += 1
        self._lengths = [length + 1 for length in self._lengths]
        for row, each in zip(self.rows, logits, strict=True):
            row.take(each)

    def drop_ended(self) -> None:
        """Let the rows go that ended, with the padding that only they needed."""
        staying = [place for place, row in enumerate(self.rows) if not row.ended]
        if len(staying) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in staying]
        self._lengths = [self._lengths[place] for place in staying]
        if staying:
            cut = self._width - max(self._lengths)
            keep(self._cache, staying, cut=cut)
            self._width -= cut


def most_places(rows: Sequence[OpenAnswer]) -> int:
    """Return how many places, padding included, one cache of rows may come to hold."""
    return len(rows) * max((row.most_tokens for row in rows), default=0)
