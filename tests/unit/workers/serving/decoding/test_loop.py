"""Answers of the loop are those of PEFT alone, whoever is beside them; held to it over a real tiny model."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support import served
from support.served import Listener
from support.waiting import wait_until

from workers.serving.decoding.errors import BadQuestion, LoopEnded, NameTaken, NotLoaded, QueueFull, TooLong
from workers.serving.decoding.loop import DecodeLoop
from workers.serving.decoding.requests import DecodeQuestion, EndReason, ServedPlacement

# What silences it where PEFT reads it is a context of filters, which is not of one thread alone.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAMES = (None, "a@v1", "a@v2")


def prompt_of(seed: int, tokens: int) -> tuple[int, ...]:
    """Return a prompt of so many tokens, other ones for another seed."""
    rng = random.Random(seed)
    return tuple(rng.randrange(20, 260) for _ in range(tokens))


@pytest.fixture
def alone(base: Path, adapters: dict[str, Path]) -> Callable[[str | None, tuple[int, ...], int], list[int]]:
    """What PEFT alone answers."""
    return lambda name, prompt, tokens: served.alone(served.plain(base, adapters.get(name or "")), prompt, tokens)


Alone = Callable[[str | None, tuple[int, ...], int], list[int]]


def test_versions_and_base_in_a_batch_answer_as_each_alone(loop: DecodeLoop, alone: Alone) -> None:
    assert loop.joins
    assert {version.placement for version in loop.versions()} == {ServedPlacement.SHARES_A_BATCH}
    lengths = {0: 5, 1: 23, 2: 11, 3: 2, 4: 40, 5: 11}
    asked = [(NAMES[n % 3], prompt_of(210 + n, length), 6 + 2 * n) for n, length in lengths.items()]
    answers = [Listener() for _ in asked]
    for (name, prompt, tokens), answer in zip(asked, answers, strict=True):
        loop.submit(DecodeQuestion(prompt, name, tokens), answer)
    texts = [answer.wait() for answer in answers]
    assert texts == [alone(name, prompt, tokens) for name, prompt, tokens in asked]
    assert {answer.ended.reason for answer in answers} == {EndReason.LENGTH}


def test_adapters_of_these_tests_matter(alone: Alone) -> None:
    prompt = prompt_of(7, 9)
    assert len({tuple(alone(name, prompt, 8)) for name in NAMES}) == 3


@pytest.mark.parametrize("late", [2, 30], ids=["shorter", "longer"])
def test_a_question_that_joins_later_changes_no_other_and_is_not_changed(
    loop: DecodeLoop, alone: Alone, late: int
) -> None:
    first, second = prompt_of(11, 12), prompt_of(12, late)
    joined = Listener()

    def join(count: int) -> None:
        if count == 3:
            loop.submit(DecodeQuestion(second, "a@v2", 10), joined)

    begun = Listener(join)
    loop.submit(DecodeQuestion(first, "a@v1", 20), begun)
    assert begun.wait() == alone("a@v1", first, 20)
    assert joined.wait() == alone("a@v2", second, 10)


def test_a_question_that_leaves_changes_no_other(loop: DecodeLoop, alone: Alone) -> None:
    prompts = {"longest": (prompt_of(21, 60), "a@v1", 4), "middle": (prompt_of(22, 9), None, 12)}
    prompts["shortest"] = (prompt_of(23, 3), "a@v2", 20)
    answers = {name: Listener() for name in prompts}
    for name, (prompt, version, tokens) in prompts.items():
        loop.submit(DecodeQuestion(prompt, version, tokens), answers[name])
    for name, (prompt, version, tokens) in prompts.items():
        assert answers[name].wait() == alone(version, prompt, tokens), name


def test_a_prompt_read_in_parts_is_read_as_a_whole(base: Path, adapters: dict[str, Path], alone: Alone) -> None:
    prompt, other = prompt_of(31, 50), prompt_of(32, 4)
    with DecodeLoop(base, dtype="float32", part_tokens=7) as loop:
        loop.load("a@v1", adapters["a@v1"])
        answers = Listener(), Listener()
        loop.submit(DecodeQuestion(other, None, 12), answers[0])
        loop.submit(DecodeQuestion(prompt, "a@v1", 12), answers[1])
        assert answers[1].wait() == alone("a@v1", prompt, 12)
        assert answers[0].wait() == alone(None, other, 12)


def test_prompts_and_answers_score_as_a_whole_text_does(base: Path, adapters: dict[str, Path]) -> None:
    import torch

    prompt = prompt_of(41, 20)
    with DecodeLoop(base, dtype="float32", part_tokens=6) as loop:
        loop.load("a@v1", adapters["a@v1"])
        beside, answer = Listener(), Listener()
        loop.submit(DecodeQuestion(prompt_of(42, 9), None, 20), beside)
        loop.submit(DecodeQuestion(prompt, "a@v1", 5, logprobs=3, scores_prompt=True), answer)
        text = answer.wait()
        beside.wait()
    assert tuple(text[:20]) == prompt
    with torch.no_grad():
        logits = served.plain(base, adapters["a@v1"])(input_ids=torch.tensor([text]), use_cache=False).logits[0]
    truth = logits.log_softmax(-1)
    assert answer.tokens[0] == (prompt[0], None, ())
    for place, token in enumerate(answer.tokens[1:]):
        assert token.logprob == pytest.approx(float(truth[place, token.id]), abs=1e-4)
        best = truth[place].topk(3)
        assert [each for each, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_prompt_alone_is_scored_without_an_answer(loop: DecodeLoop) -> None:
    answer = Listener()
    loop.submit(DecodeQuestion((30, 31, 32), "a@v1", 0, scores_prompt=True), answer)
    assert answer.wait() == [30, 31, 32]
    assert answer.ended.reason is EndReason.LENGTH


def test_texts_that_are_only_scored_are_read_in_one_pass_and_score_as_each_alone(
    loop: DecodeLoop, base: Path, adapters: dict[str, Path]
) -> None:
    import torch

    asked = [
        (prompt_of(51, 9), "a@v1"),
        (prompt_of(52, 14), "a@v2"),
        (prompt_of(53, 4), None),
        (prompt_of(54, 14), "a@v1"),
    ]
    answers = [Listener() for _ in asked]

    def ask(count: int) -> None:
        if count == 1:
            for (prompt, name), answer in zip(asked, answers, strict=True):
                loop.submit(DecodeQuestion(prompt, name, 0, logprobs=2, scores_prompt=True), answer)

    passes: list[int] = []
    counting = loop.versions()[0].tree.model.register_forward_pre_hook(
        lambda _module, _args, given: passes.append(len(given["input_ids"])), with_kwargs=True
    )
    try:
        # Asked within a pass of another answer, all four wait for the next turn.
        beside = Listener(ask)
        loop.submit(DecodeQuestion(prompt_of(55, 5), None, 3), beside)
        beside.wait()
        for (prompt, name), answer in zip(asked, answers, strict=True):
            assert answer.wait() == [*prompt]
            with torch.no_grad():
                model = served.plain(base, adapters[name] if name else None)
                logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].log_softmax(-1)
            right = [float(logits[place, token]) for place, token in enumerate(prompt[1:])]
            assert [token.logprob for token in answer.tokens[1:]] == pytest.approx(right, abs=1e-4)
    finally:
        counting.remove()
    assert passes == [1, 1, 4, 1]


def test_texts_with_the_same_beginning_score_from_a_place_on_as_each_alone(
    loop: DecodeLoop, base: Path, adapters: dict[str, Path]
) -> None:
    import torch

    beginning = prompt_of(61, 8)
    texts = [(beginning + prompt_of(seed, 5 + seed % 2), name) for seed in (62, 63) for name in ("a@v1", None)]
    answers = [Listener() for _ in texts]

    def ask(count: int) -> None:
        if count == 1:
            for (text, name), answer in zip(texts, answers, strict=True):
                question = DecodeQuestion(text, name, 0, logprobs=0, scores_prompt=True, scores_from=len(beginning))
                loop.submit(question, answer)

    shapes: list[tuple[int, ...]] = []
    counting = loop.versions()[0].tree.model.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    try:
        beside = Listener(ask)
        loop.submit(DecodeQuestion(prompt_of(55, 5), None, 2), beside)
        beside.wait()
        for (text, name), answer in zip(texts, answers, strict=True):
            assert answer.wait() == [*text]
            with torch.no_grad():
                model = served.plain(base, adapters[name] if name else None)
                logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[0].log_softmax(-1)
            right = [float(logits[place, token]) for place, token in enumerate(text[1:])]
            assert [token.logprob for token in answer.tokens[: len(beginning)]] == [None] * len(beginning)
            assert [token.logprob for token in answer.tokens[len(beginning) :]] == pytest.approx(
                right[len(beginning) - 1 :], abs=1e-4
            )
    finally:
        counting.remove()
    # The beginning is read once under each name, up to the token before the first that is scored; then all of the rest.
    assert shapes[2:4] == [(2, 7), (4, 7)]


def test_an_answer_ends_before_a_stop_token(loop: DecodeLoop, alone: Alone) -> None:
    prompt = prompt_of(51, 8)
    text = alone("a@v1", prompt, 8)
    stop = text[5]
    answer = Listener()
    loop.submit(DecodeQuestion(prompt, "a@v1", 8, stop_ids=frozenset({stop})), answer)
    assert answer.wait() == text[: text.index(stop)]
    assert answer.ended.reason is EndReason.STOP


def test_a_seed_gives_the_same_text_whoever_is_beside(loop: DecodeLoop) -> None:
    question = DecodeQuestion(prompt_of(61, 8), "a@v1", 16, temperature=0.9, top_p=0.9, seed=5)
    single = Listener()
    loop.submit(question, single)
    text = single.wait()
    others, again = [Listener() for _ in range(3)], Listener()
    for number, other in enumerate(others):
        name = NAMES[number]
        loop.submit(DecodeQuestion(prompt_of(62 + number, 5 + number), name, 12, temperature=1.5, seed=number), other)
    loop.submit(question, again)
    assert again.wait() == text
    for other in others:
        other.wait()
    different = Listener()
    loop.submit(DecodeQuestion(question.prompt, "a@v1", 16, temperature=0.9, top_p=0.9, seed=6), different)
    assert different.wait() != text


def test_a_cancelled_answer_ends_before_the_next_token(loop: DecodeLoop, alone: Alone) -> None:
    prompt, other = prompt_of(71, 8), prompt_of(72, 9)
    beside = Listener()
    running = []
    answer = Listener(lambda count: running[0].cancel() if count == 4 else None)
    ready = threading.Event()

    def begin(count: int) -> None:
        if count == 1:
            running.append(loop.submit(DecodeQuestion(prompt, "a@v1", 100), answer))
            ready.set()

    beside._then = begin
    loop.submit(DecodeQuestion(other, "a@v2", 16), beside)
    assert ready.wait(60)
    assert answer.wait() == alone("a@v1", prompt, 4)
    assert answer.ended.reason is EndReason.CANCELLED
    assert beside.wait() == alone("a@v2", other, 16)


def test_a_version_loaded_beside_answers_in_work_changes_none(
    base: Path, adapters: dict[str, Path], alone: Alone
) -> None:
    prompt = prompt_of(81, 8)
    with DecodeLoop(base, dtype="float32") as loop:
        loop.load("a@v1", adapters["a@v1"])
        loading: list[threading.Thread] = []

        def load(count: int) -> None:
            if count == 3:
                loading.append(threading.Thread(target=loop.load, args=("a@v2", adapters["a@v2"])))
                loading[0].start()

        answers = Listener(load), Listener()
        loop.submit(DecodeQuestion(prompt, "a@v1", 60), answers[0])
        loop.submit(DecodeQuestion(prompt, None, 60), answers[1])
        texts = [answer.wait() for answer in answers]
        loading[0].join()
        later = Listener()
        loop.submit(DecodeQuestion(prompt, "a@v2", 12), later)
        assert later.wait() == alone("a@v2", prompt, 12)
    assert texts[0][:12] == alone("a@v1", prompt, 12)
    # As far as the text has no near ties.
    assert texts[1][:12] == alone(None, prompt, 12)


def test_a_released_version_answers_to_the_end_and_is_unknown(
    base: Path, adapters: dict[str, Path], alone: Alone
) -> None:
    prompt = prompt_of(91, 8)
    with DecodeLoop(base, dtype="float32") as loop:
        for name in adapters:
            loop.load(name, adapters[name])
        answer = Listener(lambda count: loop.release("a@v1") if count == 2 else None)
        loop.submit(DecodeQuestion(prompt, "a@v1", 12), answer)
        assert answer.wait() == alone("a@v1", prompt, 12)
        with pytest.raises(NotLoaded, match="a@v1"):
            loop.submit(DecodeQuestion(prompt, "a@v1", 12), Listener())
        other = Listener()
        loop.submit(DecodeQuestion(prompt, "a@v2", 12), other)
        assert other.wait() == alone("a@v2", prompt, 12)
        # Once nobody needs it, its matrices are gone.
        assert [version.name for version in loop.versions()] == ["a@v2"]
        assert not [name for name, _ in loop._adapters._shared.model.named_parameters() if "version1" in name]
        # The same name again, another version's bytes.
        assert loop.load("a@v1", adapters["a@v2"]) is ServedPlacement.SHARES_A_BATCH
        again = Listener()
        loop.submit(DecodeQuestion(prompt, "a@v1", 12), again)
        assert again.wait() == alone("a@v2", prompt, 12)
        # After the last one, the base answers, and more can be loaded.
        for name in adapters:
            loop.release(name)
        bare = Listener()
        loop.submit(DecodeQuestion(prompt, None, 12), bare)
        assert bare.wait() == alone(None, prompt, 12)
        loop.load("a@v1", adapters["a@v1"])
        last = Listener()
        loop.submit(DecodeQuestion(prompt, "a@v1", 12), last)
        assert last.wait() == alone("a@v1", prompt, 12)


def test_a_name_means_one_folder(loop: DecodeLoop, adapters: dict[str, Path]) -> None:
    assert loop.load("a@v1", adapters["a@v1"]) is ServedPlacement.SHARES_A_BATCH
    with pytest.raises(NameTaken, match="release it first"):
        loop.load("a@v1", adapters["a@v2"])


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        (DecodeQuestion((), None, 4), BadQuestion, "no tokens"),
        (DecodeQuestion((5, 100_000), None, 4), BadQuestion, "token 100000"),
        (DecodeQuestion((5, -1), None, 4), BadQuestion, "token -1"),
        (DecodeQuestion((5,) * 250, None, 7), TooLong, "250 tokens and up to 7 .* than the 256"),
        (DecodeQuestion((5,), "b@v1", 4), NotLoaded, "b@v1"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    loop: DecodeLoop, question: DecodeQuestion, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        loop.submit(question, Listener())


def test_the_whole_context_can_be_used(loop: DecodeLoop) -> None:
    answer = Listener()
    loop.submit(DecodeQuestion((5,) * 250, "a@v1", 6), answer)
    assert len(answer.wait()) == 6


def test_a_full_queue_refuses_and_what_waits_is_answered(base: Path, adapters: dict[str, Path], alone: Alone) -> None:
    with DecodeLoop(base, dtype="float32", most_running=1, most_queued=2) as loop:
        waiting = [Listener(), Listener()]
        refused: list[str] = []

        def fill(count: int) -> None:
            if count == 1:
                for number, answer in enumerate(waiting):
                    loop.submit(DecodeQuestion(prompt_of(100 + number, 4), None, 6), answer)
                try:
                    loop.submit(DecodeQuestion((5,), None, 1), Listener())
                except QueueFull as error:
                    refused.append(str(error))

        first = Listener(fill)
        loop.submit(DecodeQuestion(prompt_of(102, 4), None, 6), first)
        first.wait()
        assert refused == ["2 requests wait already; ask again later"]
        for number, answer in enumerate(waiting):
            assert answer.wait() == alone(None, prompt_of(100 + number, 4), 6)


def test_caches_stay_within_their_bound(base: Path, alone: Alone) -> None:
    tokens = 64
    with DecodeLoop(base, dtype="float32") as loop:
        size = loop._decoding.bytes_per_token
    with DecodeLoop(base, dtype="float32", cache_bytes=tokens * size) as loop:
        assert loop.context_tokens == tokens
        most = 0

        def look(count: int) -> None:
            nonlocal most
            most = max(most, sum(batch._width * len(batch.rows) for batch in loop._turns._batches))

        answers = [Listener(look) for _ in range(6)]
        for number, answer in enumerate(answers):
            loop.submit(DecodeQuestion(prompt_of(110 + number, 4 + 3 * number), None, 8), answer)
        for number, answer in enumerate(answers):
            assert answer.wait() == alone(None, prompt_of(110 + number, 4 + 3 * number), 8)
        assert 20 < most <= tokens


def test_whoever_listens_and_fails_ends_only_its_own_answer(loop: DecodeLoop, alone: Alone) -> None:
    prompt = prompt_of(121, 7)

    def fail(piece: object) -> None:
        raise RuntimeError("a secret text")

    answer = Listener()
    loop.submit(DecodeQuestion(prompt_of(122, 5), None, 30), fail)
    loop.submit(DecodeQuestion(prompt, "a@v2", 10), answer)
    assert answer.wait() == alone("a@v2", prompt, 10)
    # The loop takes note of an end after the listener has heard of it.
    wait_until(lambda: loop.running == 0)


def test_a_row_whose_numbers_are_not_finite_fails_alone(base: Path, adapters: dict[str, Path], alone: Alone) -> None:
    prompt = prompt_of(125, 7)
    with DecodeLoop(base, dtype="float32") as loop:
        loop.load("a@v1", adapters["a@v1"])
        failing = Listener(lambda count: _overflow(loop) if count == 2 else None)
        beside = Listener()
        loop.submit(DecodeQuestion(prompt, "a@v1", 12), failing)
        loop.submit(DecodeQuestion(prompt, None, 12), beside)
        assert beside.wait() == alone(None, prompt, 12)
        failing.wait()
    assert failing.ended.reason is EndReason.FAILED
    assert failing.ended.error.endswith("serve it in float32")


def _overflow(loop: DecodeLoop) -> None:
    """Make the first version's matrices too large for its type."""
    for name, parameter in loop._adapters._shared.model.named_parameters():
        if "lora_B.version1" in name:
            parameter.data.fill_(float("inf"))


def test_closing_cancels_what_is_in_work_and_what_waits(base: Path) -> None:
    with DecodeLoop(base, dtype="float32", most_running=1) as loop:
        begun = threading.Event()
        answers = Listener(lambda count: begun.set()), Listener()
        for answer in answers:
            loop.submit(DecodeQuestion(prompt_of(131, 5), None, 240), answer)
        assert begun.wait(60)
    assert [answer.ended.reason for answer in answers] == [EndReason.CANCELLED] * 2
    with pytest.raises(LoopEnded, match="ending"):
        loop.submit(DecodeQuestion((5,), None, 1), Listener())
