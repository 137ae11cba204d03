"""Which statements of what an alias names are believed, and what a cache remembers of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.keys import Pair, make_key

from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.formats.refs import Ref
from sdk.pulling.cache import Cache
from sdk.pulling.signed_aliases import AliasMemory, AliasSigner, SeenMove
from sdk.pulling.source import StoredStatement
from sdk.schemas.statements import MOST_SIGNERS, AliasStatement
from sdk.signing import MANIFEST_FILE, MAX_BUNDLE_BYTES, STATEMENT_FILE, sign

URL = "https://registry.example"
REF = Ref("team/a", "production")
FIRST, SECOND = "a" * 64, "b" * 64
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("theirs"), kind="P-384")


@pytest.fixture
def memory(tmp_path: Path) -> AliasMemory:
    return AliasMemory(Cache(tmp_path / "cache"), URL)


@pytest.fixture
def signer(pair: Pair) -> AliasSigner:
    return AliasSigner.of(pair.public, "7d")


def stated(
    pair: Pair, *, move: int = 1, digest: str = FIRST, ago_s: float = 0.0, file: str = STATEMENT_FILE, **other: str
) -> StoredStatement:
    """A statement that was really signed."""
    at = datetime.fromtimestamp(time.time() - ago_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"adapter": REF.adapter, "alias": REF.selector, **other}
    statement = AliasStatement.model_validate({**about, "move": move, "digest": digest, "at": at, "policies": []})
    return StoredStatement(statement.model_dump(), sign(statement, pair.private, file=file).bundle)


class TestBelieving:
    def test_a_statement_is_remembered(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        memory.accept(REF, FIRST, [stated(pair, move=7)], signer)
        seen = memory.read(REF.adapter, REF.selector)
        assert seen is not None
        assert (seen.move, seen.digest) == (7, FIRST)
        assert list(seen.statements) == [signer.keys[0].key_id]
        # Nothing half-written lies beside it.
        assert [path.name for path in memory.path(REF.adapter, REF.selector).parent.iterdir()] == ["production.json"]

    @pytest.mark.parametrize("about", [{"adapter": "team/b"}, {"adapter": "a"}, {"alias": "staging"}])
    def test_a_statement_of_another_alias_is_refused(
        self, about: dict[str, str], memory: AliasMemory, pair: Pair, signer: AliasSigner
    ) -> None:
        with pytest.raises(VerificationFailed, match=r"statement of .* as one of team/a@production"):
            memory.accept(REF, FIRST, [stated(pair, **about)], signer)
        assert memory.read(REF.adapter, REF.selector) is None

    def test_a_swapped_bundle_is_refused(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        genuine, another = stated(pair, move=1), stated(pair, move=2, digest=SECOND)
        for statement in (
            another.statement,
            {**genuine.statement, "move": 9},
            {**genuine.statement, "at": "2099-01-01T00:00:00Z"},
            {**genuine.statement, "policies": [FIRST]},
        ):
            with pytest.raises(VerificationFailed, match="something other than just this document"):
                memory.accept(REF, FIRST, [StoredStatement(statement, genuine.bundle)], signer)
        # Nor is a signature over the same bytes as a version's manifest one over a statement.
        as_manifest = stated(pair, file=MANIFEST_FILE)
        with pytest.raises(VerificationFailed, match="something other than just this document"):
            memory.accept(REF, FIRST, [as_manifest], signer)

    @pytest.mark.parametrize(
        "change",
        [
            {"more": 1},
            {"format": "adapterctl.alias/2"},
            {"move": "1"},
            {"move": 0},
            {"move": 2**60},
            {"at": "2026-02-30T00:00:00Z"},
            {"at": "٢٠٢٦-01-01T00:00:00Z"},
            {"at": "2026-01-01T00:00:00Z\n"},
            {"policies": [FIRST] * 4},
            {"digest": "A" * 64},
            {"adapter": "../a"},
        ],
    )
    def test_a_statement_of_another_form_is_refused(
        self, change: dict[str, Any], memory: AliasMemory, pair: Pair, signer: AliasSigner
    ) -> None:
        genuine = stated(pair)
        with pytest.raises(VerificationFailed, match="can't be read"):
            memory.accept(REF, FIRST, [StoredStatement({**genuine.statement, **change}, genuine.bundle)], signer)

    def test_none_and_too_many_are_refused(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        with pytest.raises(VerificationFailed, match="has no signed statement"):
            memory.accept(REF, FIRST, [], signer)
        genuine = stated(pair)
        huge = StoredStatement(genuine.statement, "[" * (MAX_BUNDLE_BYTES + 1))
        with pytest.raises(VerificationFailed, match="longer than"):
            memory.accept(REF, FIRST, [huge], signer)
        memory.accept(REF, FIRST, [huge] * (MOST_SIGNERS - 1) + [genuine], signer)
        with pytest.raises(VerificationFailed, match="more than a registry keeps"):
            memory.accept(REF, FIRST, [genuine] * (MOST_SIGNERS + 1), signer)

    def test_another_digest_is_refused(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        with pytest.raises(VerificationFailed, match="names aaaaaaaaaaaa now, but the statement of move 1 names bbbb"):
            memory.accept(REF, FIRST, [stated(pair, digest=SECOND)], signer)
        assert memory.read(REF.adapter, REF.selector) is None

    def test_ages_are_bounded_at_both_ends(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        for ago_s in (0.0, 6.9 * DAY_S, -240.0):
            memory.accept(REF, FIRST, [stated(pair, ago_s=ago_s)], signer)
        with pytest.raises(VerificationFailed, match="too old"):
            memory.accept(REF, FIRST, [stated(pair, ago_s=7.1 * DAY_S)], signer)
        with pytest.raises(VerificationFailed, match="in the future"):
            memory.accept(REF, FIRST, [stated(pair, ago_s=-360.0)], signer)

    @pytest.mark.parametrize("age", ["", "7", "0d", "-1d", "7 d", "1y", "d", "99999999d"])
    def test_an_age_that_is_none_is_refused(self, age: str, pair: Pair) -> None:
        with pytest.raises(InvalidInput, match="is not an age; write"):
            AliasSigner.of(pair.public, age)


class TestMoves:
    def test_an_older_move_is_refused(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        old, new = stated(pair, move=4), stated(pair, move=5, digest=SECOND)
        memory.accept(REF, FIRST, [old], signer)
        memory.accept(REF, SECOND, [new], signer)
        before = memory.path(REF.adapter, REF.selector).read_bytes()
        with pytest.raises(VerificationFailed, match="is of move 4, but this client has seen move 5"):
            memory.accept(REF, FIRST, [old], signer)
        # As new as it can be signed.
        with pytest.raises(VerificationFailed, match="is of move 4, but this client has seen move 5"):
            memory.accept(REF, FIRST, [stated(pair, move=4)], signer)
        with pytest.raises(VerificationFailed, match="two statements of move 5"):
            memory.accept(REF, FIRST, [stated(pair, move=5)], signer)
        assert memory.path(REF.adapter, REF.selector).read_bytes() == before
        memory.accept(REF, SECOND, [new], signer)

    def test_registries_and_aliases_are_apart(
        self, memory: AliasMemory, tmp_path: Path, pair: Pair, signer: AliasSigner
    ) -> None:
        memory.accept(REF, FIRST, [stated(pair, move=5)], signer)
        elsewhere = AliasMemory(Cache(tmp_path / "cache"), f"{URL}:8443")
        elsewhere.accept(REF, FIRST, [stated(pair, move=1)], signer)
        memory.accept(Ref("team/a", "staging"), FIRST, [stated(pair, move=1, alias="staging")], signer)
        # A process that begins later knows what was seen.
        later = AliasMemory(Cache(tmp_path / "cache"), URL)
        with pytest.raises(VerificationFailed, match="has seen move 5"):
            later.accept(REF, FIRST, [stated(pair, move=4)], signer)

    def test_a_later_move_of_another_process_is_not_overwritten(
        self, tmp_path: Path, pair: Pair, signer: AliasSigner
    ) -> None:
        old, new = stated(pair, move=5), stated(pair, move=6)
        root = tmp_path / "cache"
        waits_or_is_done = Event()

        class Telling(Cache):
            """Says when it is about to wait for a lock."""

            @contextmanager
            def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
                waits_or_is_done.set()
                with super().lock(name, shared=shared):
                    yield

        def later() -> None:
            AliasMemory(Telling(root), URL).accept(REF, FIRST, [new], signer)
            waits_or_is_done.set()

        class Overtaken(AliasMemory):
            """Another process comes in between reading and writing, as far as it can."""

            def read(self, adapter: str, alias: str) -> SeenMove | None:
                seen = super().read(adapter, alias)
                others.append(pool.submit(later))
                assert waits_or_is_done.wait(60)
                return seen

        others: list[Future[None]] = []
        with ThreadPoolExecutor(1) as pool:
            Overtaken(Cache(root), URL).accept(REF, FIRST, [old], signer)
        others[0].result()
        seen = AliasMemory(Cache(root), URL).read(REF.adapter, REF.selector)
        assert seen is not None
        assert seen.move == 6

    def test_a_damaged_memory_is_not_taken_for_none(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        memory.accept(REF, FIRST, [stated(pair, move=5)], signer)
        path = memory.path(REF.adapter, REF.selector)
        whole = json.loads(path.read_bytes())
        for content in (b"", b"{}", b"[", b"[" * 9999, json.dumps({**whole, "alias": "staging"}).encode()):
            path.write_bytes(content)
            with pytest.raises(VerificationFailed, match="is damaged; see that it names what it should, then remove"):
                memory.accept(REF, FIRST, [stated(pair, move=4)], signer)


class TestSigners:
    def test_any_key_of_a_folder_will_do(
        self, memory: AliasMemory, pair: Pair, other: Pair, signer: AliasSigner, tmp_path: Path
    ) -> None:
        theirs = stated(other, move=2)
        with pytest.raises(VerificationFailed, match="was not made with"):
            memory.accept(REF, FIRST, [theirs], signer)
        folder = tmp_path / "keys"
        folder.mkdir()
        for number, one in enumerate((pair, other)):
            (folder / f"{number}.pem").write_bytes(one.public.read_bytes())
        both = AliasSigner.of(folder, "7d")
        memory.accept(REF, FIRST, [theirs], both)
        memory.accept(REF, FIRST, [stated(pair, move=2), theirs], both)
        seen = memory.read(REF.adapter, REF.selector)
        assert seen is not None
        assert set(seen.statements) == {key.key_id for key in both.keys}

    def test_the_last_move_that_any_states_counts(
        self, memory: AliasMemory, pair: Pair, other: Pair, tmp_path: Path
    ) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(pair.public.read_bytes() + other.public.read_bytes())
        signer = AliasSigner.of(both, "7d")
        old, new = stated(pair, move=1), stated(other, move=2, digest=SECOND)
        with pytest.raises(VerificationFailed, match="the statement of move 2 names bbbb"):
            memory.accept(REF, FIRST, [old, new], signer)
        memory.accept(REF, SECOND, [old, new], signer)
        with pytest.raises(VerificationFailed, match="two signers state different versions for move 2"):
            memory.accept(REF, SECOND, [stated(pair, move=2), new], signer)
        # Too old by the one key, and renewed by the other.
        memory.accept(REF, SECOND, [stated(pair, move=2, digest=SECOND, ago_s=9 * DAY_S), new], signer)


class TestOffline:
    def test_what_was_seen_is_verified_again(
        self, memory: AliasMemory, pair: Pair, other: Pair, signer: AliasSigner
    ) -> None:
        with pytest.raises(NotFound, match="pull it once without offline="):
            memory.recall(REF, signer)
        memory.accept(REF, FIRST, [stated(pair, move=3, ago_s=2 * DAY_S)], signer)
        assert memory.recall(REF, signer) == FIRST
        with pytest.raises(VerificationFailed, match="too old"):
            memory.recall(REF, AliasSigner.of(pair.public, "36h"))
        with pytest.raises(VerificationFailed, match="was not made with"):
            memory.recall(REF, AliasSigner.of(other.public, "7d"))

    def test_a_memory_that_was_altered_is_refused(self, memory: AliasMemory, pair: Pair, signer: AliasSigner) -> None:
        memory.accept(REF, FIRST, [stated(pair, move=3)], signer)
        path = memory.path(REF.adapter, REF.selector)
        whole = path.read_text()
        for before, after in ((FIRST, SECOND), ('"move": 3', '"move": 2')):
            for count in (1, -1):
                path.write_text(whole.replace(before, after, count))
                with pytest.raises(VerificationFailed):
                    memory.recall(REF, signer)
        path.write_text(whole)
        assert memory.recall(REF, signer) == FIRST
