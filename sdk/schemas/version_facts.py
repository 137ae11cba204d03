"""What `show` and the page of a version tell about it: base, configuration, data, training and scores, in words.

>>> held_out_loss({"eval_loss": 0.75, "eval_loss_base": 1.9})
'1.9 → 0.75'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sdk.schemas.catalog import VersionView
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.probe import VersionNorms
from sdk.schemas.training_report import DatasetUse, SourceUse
from sdk.schemas.training_warnings import held_out_losses, training_warnings
from sdk.schemas.version_records import RELEASES, CombineRecord, MergeRecord, TrainingRecord

#: The most labels that are shown.
_MOST_LABELS = 10
#: The parameters of the base that had this precision while an adapter was trained.
_PRECISION = re.compile(r"base_([a-z0-9]+)_parameters")
#: How many target modules are shown.
_MOST_NAMES = 12
#: What a state means for readers if its name does not tell.
_STATES = {
    "archived": "; hidden from lists and latest, found by its number",
    "quarantined": "; found only by its digest until an admin releases it",
    "kept": " by a sweep; publish it, or it goes with the sweep",
}


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def facts_of(
    shown: VersionView,
    norms: VersionNorms | None,
    *,
    size: Callable[[float], str],
    named: Callable[[str], str] = lambda digest: digest[:12],
    at: Callable[[datetime], str] = _utc,
) -> list[tuple[str, Any]]:
    """Return what is known of a version under names for people: each value is a text, a number, or a list of texts.

    `size` writes a number of bytes, `named` the names of a dataset by its digest, and `at` a moment.
    """
    base, lora, recipe, data = shown.base, shown.lora, shown.quantization, shown.dataset
    metrics, record = shown.metrics, shown.record
    facts: list[tuple[str, Any]] = [
        ("ref", shown.ref),
        ("digest", shown.digest),
        ("state", f"{shown.state}{_STATES.get(shown.state, '')}"),
        *([("refused", shown.refusal)] if shown.refusal else []),
        # Versions of releases before have no warnings of their training.
        *(("warning", warning) for warning in dict.fromkeys((*shown.warnings, *training_warnings(record, metrics)))),
        ("aliases", shown.aliases),
        ("created", f"{at(shown.created_at)} by {shown.created_by}"),
        ("base", f"{base.id}{'@' + base.revision[:12] if base.revision else ''} ({base.architecture})"),
        ("fingerprint", base.fingerprint),
        *([("objective", record.objective)] if record.objective else []),
        *([("reference", record.reference)] if record.reference else []),
        *(("copied from", one.ref) for one in shown.parents if one.relation == "copied-from"),
        *(("continues", one.ref) for one in shown.parents if one.relation == "continued-from"),
        *(("combined", said) for said in _combined(shown)),
        *_merged(shown),
        ("method", shown.method),
        ("lora", f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}{_variant(lora)}"),
        ("targets", _first([*lora.target_modules, *lora.target_parameters])),
        *([] if shown.kind == "merged" else [("quantised", quantised_in_words(shown.method, recipe))]),
        *(("weights", held) for held in _held(metrics)),
        ("size", size(sum(file.size_bytes for file in shown.files))),
    ]
    if data is not None:
        which = f"{len(data.sources)} datasets" if data.sources else named(data.digest)
        facts.append(("data", f"{which}, {data.rows} rows, {_learnt(data)}"))
        facts += [("", _source(source, named)) for source in data.sources or ()]
    facts += trained_facts(record)
    if "loss" in metrics:
        facts.append(("train loss", metrics["loss"]))
    if "eval_accuracy" in metrics:
        facts.append(
            ("held-out rows", f"accuracy {metrics['eval_accuracy']:.4g}, macro-F1 {metrics['eval_macro_f1']:.4g}")
        )
    if (preferred := held_out_preferences(metrics)) is not None:
        facts.append(("held-out rows", preferred))
    if (losses := held_out_loss(metrics)) is not None:
        over = "" if record.held_out_rows is None else f" over {record.held_out_rows} rows"
        chosen = "" if record.best_step is None else ", which chose the weights"
        facts.append(("held-out loss", f"{losses}{over}{chosen}"))
    if "test_loss" in metrics:
        over = "" if record.test_rows is None else f" over {record.test_rows} rows"
        facts.append(("test loss", f"{metrics.get('test_loss_base', math.nan):.4g} → {metrics['test_loss']:.4g}{over}"))
    if record.best_step is not None:
        facts.append(("weights of", _best(record, metrics)))
    facts += [*_added(norms), *(("probe", said) for said in _moved(metrics))]
    if "train_s" in metrics:
        facts.append(("trained in", f"{metrics['train_s']:.0f} s, peak {size(metrics.get('peak_memory_bytes', 0))}"))
    if releases := _releases(record):
        facts.append(("trained by", releases))
    if shown.job is not None:
        facts.append(("job", f"{shown.job.id}, attempt {shown.job.attempt}"))
    if shown.unknown:
        facts.append(("not known", [name.replace("_", " ") for name in shown.unknown]))
    if shown.tags:
        facts.append(("tags", [f"{key}={value}" for key, value in shown.tags.items()]))
    if shown.description:
        facts.append(("description", _line(shown.description)))
    if shown.notes:
        last = shown.notes[-1]
        facts.append(("notes", f"{len(shown.notes)}, the last by {last.written_by}: {_line(last.text)}"))
    return facts


def _best(record: TrainingRecord, metrics: Mapping[str, float]) -> str:
    """Show which look's weights were kept, and by how much they are better than the last ones."""
    last = record.stopped_step or record.total_steps
    found = f"step {record.best_step} of {last}, the best of {record.looks} looks"
    if record.stopped_step is not None:
        found += f"; it was stopped early, of {record.total_steps} steps"
    if "eval_margin" in metrics:
        low, high = metrics["eval_margin_low"], metrics["eval_margin_high"]
        found += f"; loss {metrics['eval_margin']:.4g} lower than at the end ({low:.4g} to {high:.4g})"
    return found


def _variant(lora: LoraConfig) -> str:
    """Show the settings beyond plain LoRA."""
    said = [name for key, name in (("use_rslora", "rsLoRA"), ("use_dora", "DoRA")) if getattr(lora, key)]
    for key, values in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        if values:
            said.append(f"{key} {_listed([f'{name}={value:g}' for name, value in sorted(values.items())])}")
    if lora.bias != "none":
        said.append(f"bias {lora.bias}")
    if lora.modules_to_save:
        said.append(f"whole {_listed(lora.modules_to_save)}")
    if tokens := lora.trainable_token_indices:
        numbers = tokens if isinstance(tokens, list) else sorted({each for of in tokens.values() for each in of})
        said.append(f"tokens {_listed(list(map(str, numbers)))}")
    return "".join(f", {each}" for each in said)


def _listed(names: list[str]) -> str:
    return " ".join(_first(names))


def _added(found: VersionNorms | None) -> list[tuple[str, str]]:
    """Show how large ΔW is, if the registry has derived it."""
    norms = None if found is None else found.norms
    if not norms:
        return []
    told = {module: norm for module, norm in norms.items() if norm is not None}
    if not told:
        return [("ΔW", "its norm is unknown for every module")]
    largest = max(told, key=lambda module: told[module])
    whole = math.hypot(*told.values())
    of = "" if len(told) == len(norms) else f" of {len(norms)}"
    return [
        ("ΔW", f"norm {whole:.4g} over {len(told)}{of} modules"),
        ("largest ΔW", f"norm {told[largest]:.4g} in {largest}"),
    ]


def _moved(metrics: dict[str, float]) -> list[str]:
    """Show how far predictions on the fixed texts are moved, if the training has measured it."""
    if "probe_logit_gap" not in metrics or "probe_kl" not in metrics:
        return []
    return [f"logits moved by up to {metrics['probe_logit_gap']:.4g}, KL {metrics['probe_kl']:.4g} nats per token"]


def _combined(shown: VersionView) -> Iterator[str]:
    """Show the parents of a combination, and how much a cut has kept."""
    parents = [one for one in shown.parents if one.relation == "combined-from"]
    method = CombineRecord.read(shown.training).combine_method
    if method is None or not parents:
        return
    yield f"{method}: " + " + ".join(f"{one.weight:g}·{one.ref}" for one in parents)
    if (kept := shown.metrics.get("kept_energy")) is not None:
        yield f"{kept:.2%} of the energy kept, {shown.metrics.get('kept_energy_min', kept):.2%} where least was"


def _merged(shown: VersionView) -> Iterator[tuple[str, str]]:
    """Show what a merged model was made from, and what its merge has read back; the following lines are about its adapter."""
    if shown.kind != "merged":
        return
    record, metrics = MergeRecord.read(shown.training), shown.metrics
    of = " and ".join(one.ref for one in shown.parents if one.relation == "merged-from")
    yield "merged", f"{of or '?'} onto the {record.merge_onto} weights, in {record.merge_dtype}"
    kl = metrics.get(f"logit_kl_{record.merge_onto}")
    yield (
        "read back",
        f"{record.read_back_tensors} tensors, {record.read_back_copied} of them the base's bytes; prompts "
        + (str(record.read_back_prompts) if kl is None else f"at a KL of {kl:.3g} nats per token"),
    )


def trained_facts(record: TrainingRecord) -> Iterator[tuple[str, str]]:
    """Yield what a training was asked for, as far as it is recorded: rate, steps, batch, length, seed."""
    known = record.model_fields_set
    if "lr" in known:
        warmup = f", warm-up {record.warmup_steps} steps" if record.warmup_steps else ""
        yield "learning rate", f"{record.lr:g}, {record.schedule}{warmup}"
    if record.total_steps is not None:
        ended = "" if record.stopped_step is None else f"{record.stopped_step} of "
        passes = f", {words}" if (words := record.passes_in_words()) else ""
        yield "steps", f"{ended}{record.total_steps}{passes}"
    if record.effective_batch is not None:
        parts = f" ({words})" if (words := record.batch_in_words()) else ""
        yield "batch", f"{record.effective_batch} rows{parts}"
    if record.max_length is not None:
        cut = f", {record.rows_cut} rows truncated" if record.rows_cut else ""
        yield "length", f"at most {record.max_length} tokens{cut}"
    if "seed" in known:
        yield "seed", str(record.seed)


def _source(source: SourceUse, named: Callable[[str], str]) -> str:
    weight = "" if source.weight is None else f"weight {source.weight:g}, "
    return f"{named(source.digest)}, {weight}{source.epoch_rows} of {source.rows} rows an epoch"


def _learnt(data: DatasetUse) -> str:
    if (labels := data.labels) is None:
        return f"{data.supervised_tokens} supervised tokens"
    more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return f"{len(labels)} labels: {', '.join(labels[:_MOST_LABELS])}{more}"


def _line(text: str) -> str:
    """Return a text of several lines as one line."""
    return " ".join(text.split())


def _first(names: list[str]) -> list[str]:
    """Return the first names, and how many more there are: a part of a model may be named module by module."""
    return names if len(names) <= _MOST_NAMES else [*names[:_MOST_NAMES], f"and {len(names) - _MOST_NAMES} more"]


def quantised_in_words(method: str, recipe: QuantizationRecipe | None) -> str:
    """Show how the base was quantised in training. Without a recipe, it was unquantised only if the method says so."""
    if recipe is not None:
        double = " with double quantisation" if recipe.double_quant else ""
        return f"{recipe.type}{double}, {recipe.compute_dtype} compute"
    return "no" if method == "lora" else "unknown"


def _releases(record: TrainingRecord) -> list[str]:
    """Show our own release that trained a version, Python's and the driver's, as far as they are recorded."""
    return [f"{name} {one}" for name in RELEASES if (one := getattr(record, name)) is not None]


def _held(metrics: dict[str, float]) -> list[str]:
    """Show which share of the base was in which precision, if the training has counted it."""
    counted = {found[1]: count for name, count in metrics.items() if (found := _PRECISION.fullmatch(name))}
    total = sum(counted.values())
    if not total:
        return []
    shares = sorted(counted.items(), key=lambda item: -item[1])
    return [", ".join(f"{name} {100 * count / total:.1f} %" for name, count in shares)]


def held_out_loss(metrics: Mapping[str, float]) -> str | None:
    """Return the loss of the held-out rows before and after a training; None if there were none.

    >>> held_out_loss({"eval_loss": 0.75, "eval_loss_base": 1.9}), held_out_loss({"loss": 1.0})
    ('1.9 → 0.75', None)
    >>> held_out_loss({"eval_loss": 0.75, "eval_loss_base": 1.9, "eval_chosen_loss_parent": 3.2})
    '0.6931 → 0.75'
    """
    losses = held_out_losses(metrics)
    return None if losses is None else f"{losses[0]:.4g} → {losses[1]:.4g}"


def held_out_preferences(metrics: Mapping[str, float]) -> str | None:
    """Return in words what was learnt of the preferences in held-out rows; None if there were none.

    >>> held_out_preferences({"eval_preference_accuracy": 0.9, "eval_chosen_loss": 1.0, "eval_chosen_loss_base": 2.5})
    'chosen answer preferred in 90%, its loss 2.5 → 1'
    >>> held_out_preferences({"eval_logp_accuracy": 0.75, "eval_logp_margin": 0.5})
    'chosen answer likelier in 75%, by 0.5 nats per token'
    >>> held_out_preferences({"eval_desirable_reward": 0.5, "eval_undesirable_reward": -0.25, "eval_auc": 0.9})
    'reward 0.5 of desirable answers, -0.25 of undesirable ones, AUC 0.9'
    """
    before = metrics.get("eval_chosen_loss_parent", metrics.get("eval_chosen_loss_base", math.nan))
    match metrics:
        case {"eval_preference_accuracy": share, "eval_chosen_loss": after}:
            return f"chosen answer preferred in {share:.0%}, its loss {before:.4g} → {after:.4g}"
        case {"eval_logp_accuracy": share, "eval_logp_margin": margin}:
            return f"chosen answer likelier in {share:.0%}, by {margin:.4g} nats per token"
        case {"eval_desirable_reward": good, "eval_undesirable_reward": bad, "eval_auc": area}:
            return f"reward {good:.4g} of desirable answers, {bad:.4g} of undesirable ones, AUC {area:.4g}"
    return None
