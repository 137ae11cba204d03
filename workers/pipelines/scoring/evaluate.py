"""Score a base, with or without an adapter, on rows: the loss of the expected text, and the generated text."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from sdk.lora.stored_quantization import require_precision
from sdk.schemas.evaluation import MOST_TARGET_ROWS, Conditions, EvaluationReport, EvaluationSpec, Sample
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.batches import example_losses
from workers.pipelines.data.digests import generation_of, tokenizer_of
from workers.pipelines.data.examples import Example
from workers.pipelines.data.fixed_texts import GENERAL_DIGEST
from workers.pipelines.data.rows import by_first_reference, read_rows
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.data.tokenizer import all_stops, configured_stops, load_tokenizer, longest_row, serve_by
from workers.pipelines.data.vocabulary import require_embedded, words_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.blueprint import read_blueprint, stored_quantization_named
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.device import Device, choose_device, memory_errors_named
from workers.pipelines.model.loading import LoadedBase, load_base
from workers.pipelines.model.precision import measured
from workers.pipelines.model.rotary import parts, turns_at
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import RecordedScores
from workers.pipelines.scoring.choices import CHOICES_VERSION, Question, score_choices, tokenise_choices
from workers.pipelines.scoring.forgetting import general_scores, read_bare
from workers.pipelines.scoring.left_padding import reads_left_padding
from workers.pipelines.scoring.preferred import preferred_by
from workers.pipelines.scoring.recorded import SCORING_VERSION, held_by, held_in, require_unrecorded
from workers.pipelines.scoring.row_scores import (
    RowScores,
    counts_of_long,
    require_few_rows,
    store_rows,
    supervised_bytes,
)
from workers.pipelines.scoring.scorers import grading_of, require_scorable


def evaluate(
    *,
    base: Path,
    adapter: Path | None,
    quantization: QuantizationRecipe | None,
    data: Path,
    spec: EvaluationSpec,
    on_progress: Callable[[Progress], None],
    day: date | None = None,
    stop_ids: Sequence[int] = (),
    bases: SharedBase | None = None,
    rows_to: Path | None = None,
    recorded: Sequence[RecordedScores] = (),
    kept: Path | None = None,
    most_rows: int = MOST_TARGET_ROWS,
) -> EvaluationReport:
    """Score the base in the folder `base` on the rows of `data`, with the adapter in a folder or bare.

    `quantization` None loads the base as it is stored. The loss is in nats per supervised token, weighted by tokens;
    perplexity is exp(loss), and bits_per_byte is the same loss by the length of the texts, so that models with other
    tokenizers can be compared. The completions of the first `generate_rows` rows that have a prompt, decoded greedily,
    are scored by `metrics` and `scorers`, each against all references of its row; the loss is that of the first.
    General texts show what else the adapter changed. `day` is the date given to chat templates. A
    completion ends at `stop_ids`, at the tokens that end the rows' own answers, and at those of the base. `bases` holds
    the base between calls, `kept` is the folder in which its weights in 4 bits are kept between attempts. The scores of
    each row are written to a file in the folder `rows_to`. A row whose loss is not a number, or on which a metric
    raises, loses only that score, and is counted; also counted are rows that are too long to be scored, or were cut,
    and prompts of which only the end fits before the answer. Raises PipelineError, and AlreadyRecorded if one of
    `recorded` has the same scores already.
    """
    started = time.perf_counter()
    on_progress(Progress(phase="data", message="reading and tokenising rows"))
    shared, key = bases or SharedBase(), (base, quantization)
    with stored_quantization_named():
        require_precision(shared.of_folder(base, read_blueprint).packing, spec.precision)
    tokenizer = shared.tokenizer(base, load_tokenizer)
    if adapter is not None:
        serve_by(tokenizer, adapter)
    max_length = longest_row(base, spec.max_length)
    configured = configured_stops(base)
    grading = grading_of(spec)
    given = read_rows(data, columns=spec.columns)
    require_few_rows(given, most_rows)
    questions, further = list[Question](), dict[int, list[str]]()
    if given[0].shape == "choices":
        rows, questions = tokenise_choices(given, tokenizer, loss_on=spec.loss_on, max_length=max_length)
    else:
        answered, further = by_first_reference(given)
        rows = tokenise(answered, tokenizer, loss_on=spec.loss_on, max_length=max_length, day=day, stop_ids=configured)
    device = choose_device()
    device.forget_peak()
    # For a preference, the chosen answer is the expected one.
    expected_texts = rows.examples[::2] if rows.shape == "preference" else rows.examples
    # Each of several choices is scored, and the right one is the expected answer.
    every = [example for question in questions for example in question.examples] or expected_texts
    asked = [example for example in expected_texts if example.prompt_ids][: spec.generate_rows]
    # The question is at the end of a prompt: a long one loses its beginning, and leaves room for an answer.
    room = _room(base, spec) if asked else 0
    shortened_prompts = sum(len(example.prompt_ids) > room for example in asked)
    references = [[example.reference, *further.get(example.row, ())] for example in asked]
    longer_references = sum(_is_longer(texts, tokenizer, spec.max_new_tokens) for texts in references)
    prompts = [example.prompt_ids[-room:] for example in asked]
    taught = [*stop_ids, *rows.rendering.stop_ids, *([] if adapter is None else configured_stops(adapter))]
    stops = all_stops(base, tokenizer, taught)
    require_scorable(spec, len(asked))
    metrics_asked = grading.metrics if asked else []
    definitions = grading.definitions() if asked else {}
    definitions |= {"choices": str(CHOICES_VERSION)} if questions else {}
    counts_of_bytes = [supervised_bytes(example, tokenizer) for example in expected_texts]
    conditions = Conditions(
        loss_on=rows.loss_on,
        columns=spec.columns,
        max_length=max_length,
        generated_rows=len(asked),
        max_new_tokens=spec.max_new_tokens if asked else 0,
        stop_ids=stops if asked else [],
        templates=rows.rendering.templates,
        template_date=rows.rendering.template_date,
        tokenizer=tokenizer_of(base),
        scoring=SCORING_VERSION,
        prompt_tokens=room,
        generation=generation_of(base) if asked else None,
        metrics=definitions,
        general_texts=GENERAL_DIGEST,
    )
    expected = held_in(
        base, quantization, device, conditions, own=adapter is not None and spec.precision == "as-trained"
    )
    shortened = rows.cut - sum(why == "too_long" for why in rows.left_out.values())
    counts = counts_of_long(len(rows.left_out), shortened, shortened_prompts, longer_references)
    wanted = [*metrics_asked, *counts]
    # For choices no samples are kept; rows have the choice that was taken.
    texts = bool(questions) and spec.keep_samples > 0
    require_unrecorded(recorded, expected, wanted, min(spec.keep_samples, len(asked)), texts=texts)

    def load() -> LoadedBase:
        on_progress(Progress(phase="load", message=f"loading the base on {device.name}"))
        loaded = load_base(base, device, quantization=quantization, kept=kept)
        on_progress(Progress(phase="load", message=f"the base is held as {loaded.said}"))
        require_causal(loaded.model)
        return loaded

    with memory_errors_named("lower batch_size or max_length, or evaluate over the quantised base."):
        set_seed(spec.seed)
        general = shared.bare(key=key, load=load, read=lambda model: read_bare(model, tokenizer, base))
        with shared.wearing(adapter, key=key, load=load) as (loaded, model):
            require_embedded([*rows.examples, *every], tokenizer, words=words_of(model))
            begun = time.perf_counter()
            losses = _losses(model, every, tokenizer, device, spec, on_progress)
            loss_s = time.perf_counter() - begun
            scored = _scored(expected_texts, losses)
            scored.unscored, scored.shortened = rows.left_out, shortened
            scored.shortened_prompts, scored.longer_references = shortened_prompts, longer_references
            chosen = score_choices(questions, losses, scored)
            preferred = preferred_by(model, rows, tokenizer.pad_token_id, spec.batch_size, device, scored)
            begun = time.perf_counter()
            written = _generate(model, prompts, tokenizer, device, spec, stops, on_progress)
            generate_s = time.perf_counter() - begun
            changed = general_scores(general, None if adapter is None else model)
    if not changed:
        said = "no general_loss and general_kl: on the general texts these are not numbers"
        on_progress(Progress(phase="evaluate", message=said))
    loss = scored.mean_loss
    metrics: dict[str, float] = {
        "loss": loss,
        # Above e^709 a float overflows; such a model predicts nothing anyway.
        "perplexity": math.exp(min(loss, 709.0)),
        "supervised_tokens": float(scored.supervised_tokens),
        "tokens": float(tokens := sum(len(example.input_ids) for example in every)),
        "tokens_per_s": tokens / loss_s,
        **preferred,
        **measured(loaded.shares),
        **changed,
        **chosen,
    }
    of_rows = zip(expected_texts, counts_of_bytes, strict=True)
    if (counted := sum(count for example, count in of_rows if example.row in scored.loss_sums)) > 0:
        metrics["bits_per_byte"] = loss * scored.supervised_tokens / counted / math.log(2)
    answers, errors = [text.strip() for text in written], dict[str, str]()
    if asked:
        found = grading.score(written, references, [given[example.row].fields for example in asked])
        scored.add_answers([example.row for example in asked], answers, found)
        # An error may quote its row.
        errors = {name: said if spec.keep_samples else said.partition(":")[0] for name, said in found.errors.items()}
        metrics |= found.metrics
        metrics["generate_s"] = generate_s
    metrics |= {**scored.counted(), "generated_rows": float(len(asked))}
    file = None
    if rows_to is not None:
        file, cut = store_rows(rows_to, scored.rows(texts=spec.keep_samples > 0))
        metrics |= {"cut_rows": float(cut)} if cut else {}
    metrics["eval_s"] = time.perf_counter() - started
    metrics["peak_memory_bytes"] = float(device.peak_memory_bytes())
    return EvaluationReport(
        metrics=metrics,
        samples=[
            Sample(prompt=_kept(example.prompt), reference=_kept(example.reference), completion=_kept(answer))
            for example, answer in list(zip(asked, answers, strict=True))[: spec.keep_samples]
        ],
        **held_by(loaded, conditions, scored),
        rows=file,
        scorer_errors=errors,
    )


def _room(base: Path, spec: EvaluationSpec) -> int:
    """The most tokens of a prompt that an answer starts from. Raises PipelineError if the base has no position left for one."""
    positions = longest_row(base, spec.max_length + spec.max_new_tokens)
    if positions <= spec.max_new_tokens:
        raise PipelineError(
            FailureReason.SPEC,
            f"The base has {positions} positions, so max_new_tokens {spec.max_new_tokens} leaves none for a prompt; "
            "lower it, or let generate_rows be 0.",
        )
    return positions - spec.max_new_tokens


def _is_longer(references: Sequence[str], tokenizer: Any, most: int) -> bool:
    """Whether each of a row's references has more than `most` tokens, so that no answer can be one of them."""
    return all(len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) > most for text in references)


def _losses(
    model: Any,
    examples: Sequence[Example],
    tokenizer: Any,
    device: Device,
    spec: EvaluationSpec,
    on_progress: Callable[[Progress], None],
) -> list[tuple[Example, float]]:
    """Return each example with its summed loss in nats."""
    losses, total, started = list[tuple[Example, float]](), len(examples), time.perf_counter()
    on_progress(Progress(phase="evaluate", step=0, total=total, unit="rows"))
    for part in example_losses(model, examples, tokenizer.pad_token_id, spec.batch_size, device.torch_device):
        losses += part
        left_s = (time.perf_counter() - started) / len(losses) * (total - len(losses))
        on_progress(Progress(phase="evaluate", step=len(losses), total=total, unit="rows", eta_s=left_s))
    return losses


def _scored(examples: Sequence[Example], losses: Sequence[tuple[Example, float]]) -> RowScores:
    """Return each row's loss, only for `examples`. Raises PipelineError if no row has one."""
    own = set(map(id, examples))
    scored = RowScores()
    scored.add_losses((example, loss) for example, loss in losses if id(example) in own)
    if not scored.loss_sums:
        found = next(loss for example, loss in losses if id(example) in own)
        raise PipelineError(
            FailureReason.DIVERGED,
            f"The loss on these rows is {found}; evaluate the bare base to see whether the base or the adapter is at fault.",
        )
    return scored


def _generate(
    model: Any,
    prompts: Sequence[list[int]],
    tokenizer: Any,
    device: Device,
    spec: EvaluationSpec,
    stop_ids: list[int],
    on_progress: Callable[[Progress], None],
) -> list[str]:
    """Return one greedy completion per prompt, given as tokens, in their order.

    Rows of similar length share a batch and are padded on the left, so every row's next token comes right after its
    prompt.
    """
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    started = time.perf_counter()
    if order:
        on_progress(Progress(phase="generate", step=0, total=len(order), unit="rows"))
    lengths = [len(prompts[index]) for index in order]
    # A growing answer may reach a length with other rotary frequencies, which would affect the other rows too.
    turns = None if (whole := turns_at(model)) is None else whole - spec.max_new_tokens
    together = spec.batch_size
    if together > 1 and len(set(lengths)) > 1 and reads_left_padding(model, tokenizer.pad_token_id):
        together = 1
        said = "prompts are answered one at a time: this base reads what they are padded with"
        on_progress(Progress(phase="generate", message=said))
    for chosen in parts(lengths, together, turns, beyond=1):
        part = order[chosen]
        longest = len(prompts[part[0]])
        input_ids = torch.full((len(part), longest), tokenizer.pad_token_id)
        mask = torch.zeros((len(part), longest), dtype=torch.int64)
        for row, index in enumerate(part):
            first = longest - len(prompts[index])
            input_ids[row, first:] = torch.tensor(prompts[index])
            mask[row, first:] = 1
        with torch.no_grad(), warnings.catch_warnings():
            # Some bases store sampling settings; greedy decoding doesn't use them, but warns about them.
            warnings.simplefilter("ignore", UserWarning)
            output = model.generate(
                input_ids=input_ids.to(device.torch_device),
                attention_mask=mask.to(device.torch_device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=spec.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=stop_ids,
            )
        for index, text in zip(
            part, tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True), strict=True
        ):
            answers[index] = text
        done = chosen.stop
        left_s = (time.perf_counter() - started) / done * (len(order) - done)
        on_progress(Progress(phase="generate", step=done, total=len(order), unit="rows", eta_s=left_s))
    return answers


def _kept(text: str) -> str:
    """Return `text` in a form that can be stored: a model may generate any character, also NUL, which databases can't store."""
    return text.replace("\0", "\ufffd")
