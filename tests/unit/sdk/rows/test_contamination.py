"""Rows that are among those of another file: all that were planted are found, and no others."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fixtures import Limits
from support.held_out_rows import held_out
from support.trainings import save_jsonl

from sdk.formats.rows import Row, RowsError, check_rows, text_values
from sdk.rows import signature_file, sorting
from sdk.rows.contamination import Among, rows_among
from sdk.rows.grams import GRAM, Texts
from sdk.rows.holdout import split_unit
from sdk.rows.signature_file import MOST_KEPT, SignatureFile, SplitDiffers, make_signatures
from sdk.rows.splitting import rows_digest
from sdk.rows.texts import normalised_row, row_key, said
from sdk.schemas.held_out import HoldOut

LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyz",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "han": "".join(map(chr, range(0x4E00, 0x4F00))),
}


def signed(folder: Path, name: str, rows: list[dict[str, Any]], **said: Any) -> SignatureFile:
    data = save_jsonl(folder / f"{name}.jsonl", rows)
    target = folder / f"{name}.signatures"
    make_signatures(data, target, **said)
    return SignatureFile(target)


def counts(among: Among) -> tuple[int, int, int]:
    return int(among.exact.sum()), int(among.normalised.sum()), int(among.near.sum())


def texts(chosen: random.Random, count: int, letters: str, words: tuple[int, int] = (8, 80)) -> list[str]:
    vocabulary = ["".join(chosen.choices(letters, k=chosen.randint(2, 9))) for _ in range(3_000)]
    return [" ".join(chosen.choices(vocabulary, k=chosen.randint(*words))) for _ in range(count)]


def changed(chosen: random.Random, text: str, other: str) -> str:
    """A text with some words changed, added or left out, of which 80 in 100 grams of both are in both."""
    while True:
        words = text.split()
        for _ in range(chosen.randint(1, 3)):
            place = chosen.randrange(len(words))
            words[place : place + chosen.randint(0, 1)] = chosen.choices(other.split(), k=chosen.randint(0, 1))
        found = " ".join(words)
        one, two = grams(text), grams(found)
        if found != text and len(one & two) >= 0.8 * len(one | two):
            return found


def grams(text: str) -> set[str]:
    return {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)}


def brute(held: list[str], training: list[str]) -> tuple[int, int]:
    """Rows that are there as they are, and of the others those that are there in another spelling, by plain sets."""
    spelt = {" ".join(text.casefold().split()) for text in training}
    exact = [text in set(training) for text in held]
    return sum(exact), sum(" ".join(t.casefold().split()) in spelt and not e for t, e in zip(held, exact, strict=True))


def plain_signatures(rows: list[Row]) -> bytes:
    """The file of signatures of rows, by sorting in lists."""
    said_texts = [normalised_row(row) for row in rows]
    exact = sorted((row_key(said(row)), at) for at, row in enumerate(rows))
    normal = sorted((row_key(text.encode()), at) for at, text in enumerate(said_texts))
    first = {text: at for at, text in reversed(list(enumerate(said_texts)))}
    hashes = sorted(
        (hashed, at)
        for text, at in first.items()
        for hashed in sorted(set(Texts([text]).grams.hashes.tolist()))[:MOST_KEPT]
    )
    header = struct.pack("<4Q", 0x726F7773, 1, len(rows), len(hashes))
    columns = [
        struct.pack(f"<{len(some)}{kind}", *(pair[part] for pair in some))
        for part, kind in ((0, "Q"), (1, "I"))
        for some in (exact, normal, hashes)
    ]
    return header + b"".join(columns)


class TestPlanted:
    @pytest.mark.parametrize("script", sorted(LETTERS))
    def test_rows_of_each_kind_are_counted_and_unrelated_ones_are_not(self, tmp_path: Path, script: str) -> None:
        chosen = random.Random(script)
        training = texts(chosen, 1_500, LETTERS[script], (16, 80))
        planted = chosen.sample(training, 450)
        exact, spelt = planted[:150], [f"  {text.upper()} " for text in planted[150:300]]
        if script == "han":
            spelt = [text.replace(" ", " \n ") for text in planted[150:300]]
        near = [changed(chosen, text, training[0]) for text in planted[300:]]
        unrelated = texts(chosen, 1_500, LETTERS[script])
        one = signed(tmp_path, "training", [{"text": text} for text in training])
        rows = [*exact, *spelt, *near, *unrelated]
        found = rows_among(signed(tmp_path, "held", [{"text": text} for text in rows]), [one])
        assert found.exact[:150].all()
        assert found.normalised[150:300].all()
        assert found.near[300:450].mean() >= 0.95
        assert (found.exact | found.normalised | found.near)[450:].mean() <= 0.001
        assert brute(rows, training) == counts(found)[:2]

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_each_row_is_counted_once_in_any_order_and_however_often_it_is_there(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("rows")
        pool = texts(random.Random(7), 12, LETTERS["latin"], (2, 20))
        pool += [text.upper() for text in pool] + ["", " ", "short", "Short"]
        some = st.lists(st.sampled_from([text for text in pool if text.strip()]), min_size=1, max_size=40)
        held, parts = data.draw(some), data.draw(st.lists(some, min_size=1, max_size=3))
        files = [signed(folder, f"t{at}", [{"text": text} for text in part]) for at, part in enumerate(parts)]
        found = rows_among(signed(folder, "held", [{"text": text} for text in held]), files)
        both = [text for part in parts for text in part]
        exact, spelt, _ = counts(found)
        assert (exact, spelt) == brute(held, both)
        assert not (found.exact & found.normalised).any()
        assert not (found.near & (found.exact | found.normalised)).any()
        whole = signed(folder, "whole", [{"text": text} for text in both])
        again = rows_among(signed(folder, "held", [{"text": text} for text in held]), [whole])
        assert (again.exact == found.exact).all()
        assert (again.normalised == found.normalised).all()

    def test_a_text_that_many_training_rows_have_is_near_all_the_same(self, tmp_path: Path) -> None:
        chosen = random.Random(3)
        text, *others = texts(chosen, 200, LETTERS["latin"], (30, 40))
        training = [{"text": text}] * 500 + [{"text": other} for other in others]
        held = [{"text": changed(chosen, text, others[0])}] * 3
        found = rows_among(signed(tmp_path, "held", held), [signed(tmp_path, "training", training)])
        assert counts(found) == (0, 0, 3)

    def test_an_instruction_that_all_rows_begin_with_makes_none_near(self, tmp_path: Path) -> None:
        chosen = random.Random(4)
        told = "Say in one sentence what the following text is about: "
        training, held = (
            [{"text": told + text} for text in texts(chosen, 500, LETTERS["latin"], (15, 40))] for _ in "ab"
        )
        found = rows_among(signed(tmp_path, "held", held), [signed(tmp_path, "training", training)])
        assert counts(found) == (0, 0, 0)

    def test_rows_of_other_shapes_are_one_text(self, tmp_path: Path) -> None:
        training = [{"messages": [{"role": "user", "content": "How warm?"}, {"role": "assistant", "content": "Warm"}]}]
        held = [
            {
                "prompt": [{"role": "user", "content": "how  WARM?"}],
                "completion": [{"role": "assistant", "content": "warm"}],
            }
        ]
        found = rows_among(signed(tmp_path, "held", held), [signed(tmp_path, "training", training)])
        assert counts(found) == (0, 1, 0)


class TestFile:
    def test_it_is_sorted_and_each_hash_is_beside_its_row(self, tmp_path: Path) -> None:
        rows = [{"text": text} for text in texts(random.Random(5), 300, LETTERS["latin"])]
        found = signed(tmp_path, "rows", rows + rows[:5])
        for keys, of in ((found.exact, found.exact_rows), (found.normalised, found.normalised_rows)):
            assert (np.diff(keys.astype(object)) >= 0).all()
            assert sorted(of.tolist()) == list(range(305))
        assert np.all(found.grams[1:] >= found.grams[:-1])
        assert np.bincount(found.gram_rows).max() == MOST_KEPT
        assert found.gram_rows.max() < 300

    def test_more_rows_than_fit_are_refused(self, tmp_path: Path, limits: Limits) -> None:
        limits(signature_file, MOST_ROWS=3)
        with pytest.raises(RowsError, match="more than 3 rows"):
            signed(tmp_path, "rows", [{"text": f"t{number}"} for number in range(4)])

    @pytest.mark.parametrize("how", [None, HoldOut(0.3, 5)])
    def test_it_is_the_same_whether_hashes_are_sorted_at_once_or_in_parts(
        self, tmp_path: Path, limits: Limits, how: HoldOut | None
    ) -> None:
        """Rows that begin alike, are there again, are short, or have other letters: what plain Python makes of them."""
        chosen = random.Random(3)
        written = [f"Say what this is about: {text}" for text in texts(chosen, 300, LETTERS["latin"], (20, 60))]
        written += texts(chosen, 50, LETTERS["han"]) + texts(chosen, 50, LETTERS["greek"]) + ["a", "A", " a "]
        rows = [
            {"text": text}
            for text in [*written, *written[:60], *map(str.upper, written[:40]), *["again and again"] * 300]
        ]
        data = save_jsonl(tmp_path / "rows.jsonl", rows)
        good = list(check_rows(text_values(data)))
        if how is not None:
            good = [row for row, out in zip(good, held_out(list(map(split_unit, good)), how), strict=True) if not out]
        given: dict[str, Any] = {"how": how, "training_digest": None if how is None else rows_digest(good)}
        expected = plain_signatures(good)
        make_signatures(data, tmp_path / "whole", **given)
        assert (tmp_path / "whole").read_bytes() == expected
        limits(sorting, _RUN_KEYS=200, _SAMPLED=8)
        make_signatures(data, tmp_path / "parts", **given)
        assert (tmp_path / "parts").read_bytes() == expected

    def test_unusable_rows_are_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").write_text('{"text": "a"}\nno json\n{"text": ""}\n{"text": "b"}\n')
        assert make_signatures(tmp_path / "rows.jsonl", tmp_path / "s") == 2

    @pytest.mark.parametrize("content", [b"", b"x" * 32, b"x" * 31])
    def test_another_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "s").write_bytes(content)
        with pytest.raises(ValueError, match="not a file of signatures"):
            SignatureFile(tmp_path / "s")

    def test_rows_that_were_held_out_are_not_among_those_of_the_training(self, tmp_path: Path) -> None:
        rows = [{"text": text, "g": at % 20} for at, text in enumerate(texts(random.Random(6), 300, LETTERS["latin"]))]
        keys = {"text": "text"}
        everything = signed(tmp_path, "all", rows, columns=keys)
        data = tmp_path / "all.jsonl"
        for how in (HoldOut(0.3), HoldOut(0.3, 5), HoldOut(0.2, 1, "g")):
            good = list(check_rows(text_values(data, keys), columns=keys, group_by=how.by))
            out = held_out([split_unit(row) for row in good], how)
            digest = rows_digest(row for row, is_out in zip(good, out, strict=True) if not is_out)
            training = signed(tmp_path, "training", rows, columns=keys, how=how, training_digest=digest)
            assert rows_among(everything, [training]).exact.tolist() == [not is_out for is_out in out]

    def test_a_split_that_is_not_that_of_the_record_is_refused(self, tmp_path: Path) -> None:
        rows = [{"text": text} for text in texts(random.Random(8), 30, LETTERS["latin"])]
        with pytest.raises(SplitDiffers):
            signed(tmp_path, "rows", rows, how=HoldOut(0.3), training_digest="0" * 64)
