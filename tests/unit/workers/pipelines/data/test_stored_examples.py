"""Examples in a file are what they were, in whatever order they are asked for, and take no memory."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fixtures import Limits
from support.traced import traced

from workers.pipelines.data import stored_examples
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.stored_examples import (
    StoredExamples,
    first_lengths_of,
    lengths_of,
    longest_examples,
    longest_of,
    shortest_of,
)

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=70)
#: What is learnt of a token: itself, nothing, or another one, which no row of a training has.
LABELS = st.sampled_from([lambda token: token, lambda token: IGNORED] * 20 + [lambda token: token // 2 + 1])
EXAMPLES = st.builds(
    lambda ids, learnt, stop, row: Example(
        ids, [label(token) for label, token in zip(learnt, ids, strict=False)], [], "", "", stop, row=row
    ),
    IDS,
    st.lists(LABELS, min_size=70, max_size=70),
    st.none() | st.integers(0, 2**31 - 1),
    st.integers(0, 2**32 - 1),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(EXAMPLES, max_size=30), st.slices(30), st.randoms(use_true_random=False))
def test_they_are_what_they_were(examples: list[Example], part: slice, shuffle: object) -> None:
    stored = StoredExamples(examples)
    assert list(stored) == examples
    assert len(stored) == len(examples)
    assert stored[part] == examples[part]
    order = list(range(len(examples)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    assert [stored[at] for at in order] == [examples[at] for at in order]
    assert list(lengths_of(stored)) == list(lengths_of(examples))
    assert stored.supervised_tokens == sum(example.supervised_tokens for example in examples)
    assert stored.tokens == sum(len(example.input_ids) for example in examples)
    assert first_lengths_of(stored, 3) == [len(example.input_ids) for example in examples[:3]]
    assert shortest_of(stored, 2) == sorted(examples, key=lambda example: len(example.input_ids))[:2]
    assert longest_examples(stored, 2) == sorted(examples, key=lambda example: -len(example.input_ids))[:2]
    if examples:
        assert longest_of(stored) == longest_of(examples) == max(len(example.input_ids) for example in examples)
        assert stored[-1] == examples[-1]


def test_a_label_is_kept_beside_more_tokens() -> None:
    labelled = Example([5, 6, 7], [2], [], "", "", row=3)
    assert list(StoredExamples([labelled])) == [labelled]


def test_labels_take_a_bit_a_token() -> None:
    ids = list(range(1000))
    stored = StoredExamples(Example(ids, [IGNORED] * 500 + ids[500:], [], "", "") for _ in range(10))
    assert list(stored)[9].labels == [IGNORED] * 500 + ids[500:]
    assert os.fstat(stored._numbers.fileno()).st_size == 10 * (4 * 1000 + 128)


def test_they_take_a_part_of_their_memory(limits: Limits) -> None:
    limits(stored_examples, _CHUNK_BYTES=1 << 16)
    stored = StoredExamples(Example(list(range(1000, 1400)), list(range(1000, 1400)), [], "", "") for _ in range(400))
    with traced() as peak_bytes:
        assert sum(len(example.labels) for example in stored) == 400 * 400
        # As lists they are 2.5 MB.
        assert peak_bytes() < 2**19
