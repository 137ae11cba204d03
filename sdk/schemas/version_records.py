"""How a version was made, as lineage has it: trained, merged or combined.

It is stored and sent flat, as one JSON object of texts, numbers and truth values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from sdk.schemas.training import TrainingFields
from sdk.schemas.wire import IF_ANY, IF_SET, JsonScalar, Sha256, Wire

#: Marks what can change a training's result besides what was asked for: its repetition compares it.
RAN_WITH = object()
Release = Annotated[str, Field(max_length=100)]
#: How special tokens that a tokenizer puts around every text meet those that a text has already: it has them "once", or
#: they are always "added", as in trainings before this was recorded.
SpecialTokens = Literal["once", "added"]
#: The fields of the releases of what is no library.
RELEASES = ("adapterctl", "python", "driver")


def special_tokens_said(had: Mapping[str, int]) -> str | None:
    """Say which special tokens of a tokenizer so many rows had already.

    >>> special_tokens_said({"<s>": 2, "</s>": 1})
    'the tokenizer puts <s> and </s> around every text; 2 rows have <s> and 1 row has </s> already, and get no second'
    """
    if not had:
        return None
    each = [f"{rows} rows have {token}" if rows > 1 else f"1 row has {token}" for token, rows in had.items()]
    gets = "get" if sum(had.values()) > 1 else "gets"
    return (
        f"the tokenizer puts {' and '.join(had)} around every text; {' and '.join(each)} already, and {gets} no second"
    )


def changes_said(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Say which options a training has in place of which.

    >>> changes_said({"lr": (2e-4, 6e-5), "max_grad_norm": (None, 0.3)})
    'lr 6e-05 in place of 0.0002, max_grad_norm 0.3 in place of the default'
    """
    return ", ".join(f"{name} {value_said(now)} in place of {value_said(was)}" for name, (was, now) in changes.items())


def value_said(value: Any) -> str:
    """Say the value of an option."""
    return "the default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


class FlatRecord(Wire):
    """One object of texts, numbers and truth values, of which another release may write more, or other ones."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonScalar]

    @classmethod
    def read(cls, flat: Mapping[str, Any] | None) -> Self:
        """Return the record of a flat object, which another release, or a pusher, may have written: a field with a value of
        another type counts as not recorded.
        """
        try:
            return cls.model_validate(flat or {})
        except ValidationError as error:
            wrong = {one["loc"][0] for one in error.errors()}
            return cls.model_validate({name: value for name, value in (flat or {}).items() if name not in wrong})

    def flat(self) -> dict[str, JsonScalar]:
        """Return what is recorded, as it is stored and sent: also what a request would leave out, as the default."""
        fields = type(self).model_fields
        left_out = {
            name
            for name in self.model_fields_set & fields.keys() - TrainingFields.model_fields.keys()
            if (exclude_if := fields[name].exclude_if) is not None and exclude_if(getattr(self, name))
        }
        return {name: value for name, value in self if name in self.model_fields_set - left_out}


class TrainingRecord(TrainingFields, FlatRecord):
    """What is recorded of a training. A field that is not among `model_fields_set` was not recorded: its value is what a
    training without it does, or None.

    >>> record = TrainingRecord.read({"rank": 16, "seed": "one", "of_a_newer_release": 1})
    >>> record.rank, record.seed, record.device, record.flat()
    (16, 0, None, {'rank': 16, 'of_a_newer_release': 1})
    """

    max_length: Annotated[int | None, Field(ge=1), RAN_WITH] = None
    #: The SHA-256 of the chat template that the training was given; None: the base's own.
    chat_template: Annotated[Sha256 | None, IF_SET] = None
    #: "parent" if answers are compared with the version that is continued instead of the base; then, in the record
    #: of a version, which one that is.
    reference: Annotated[str | None, IF_SET] = None
    #: Rows in one optimiser step.
    effective_batch: int | None = None
    total_steps: Annotated[int | None, RAN_WITH] = None
    warmup_steps: int | None = None
    #: Rows of an epoch, after those with nothing to learn from are dropped.
    samples: Annotated[int | None, RAN_WITH] = None
    #: Rows that were longer than `max_length` and lost their ends.
    rows_cut: Annotated[int | None, RAN_WITH] = None
    special_tokens: Annotated[SpecialTokens | None, RAN_WITH, IF_SET] = None
    #: Rows that had a special token already that the tokenizer puts around every text.
    rows_with_special_tokens: Annotated[int | None, Field(ge=0), IF_ANY] = None
    #: Rows without anything to learn from.
    rows_dropped: int | None = None
    #: Rows of {text} that were split, among the training's rows and the held-out ones.
    rows_split: Annotated[int | None, IF_ANY] = None
    held_out_split: Annotated[int | None, IF_ANY] = None
    #: Held-out rows that are training rows too.
    held_out_rows_in_training: Annotated[int | None, Field(ge=0), IF_ANY] = None
    #: The digest of the held-out rows that were given.
    eval_data: Annotated[str | None, IF_SET] = None
    #: How the rows were split, if a share was held out: their number and digest on either side.
    training_rows: Annotated[int | None, IF_SET] = None
    training_digest: Annotated[str | None, IF_SET] = None
    held_out_rows: Annotated[int | None, IF_SET] = None
    held_out_digest: Annotated[str | None, IF_SET] = None
    #: The held-out rows by which nothing was chosen: the digest of those that were given, or number and digest of those that
    #: were held out.
    test_data: Annotated[str | None, IF_SET] = None
    test_rows: Annotated[int | None, IF_SET] = None
    test_digest: Annotated[str | None, IF_SET] = None
    #: After how many steps a look at held-out rows came, if something was chosen by them, and how many looks there were.
    look_interval: Annotated[int | None, RAN_WITH, IF_SET] = None
    looks: Annotated[int | None, IF_SET] = None
    #: The look whose weights were kept, by its step.
    best_step: Annotated[int | None, IF_SET] = None
    #: The step after which the training ended for lack of a better look, or was pruned by its sweep; None: it took all.
    stopped_step: Annotated[int | None, IF_SET] = None
    pad_token_id: Annotated[int | None, IF_SET] = None
    #: The number of the training loop, without which no other training has the same bytes; None: TRL's trainer.
    loop: Annotated[int | None, RAN_WITH] = None
    #: The optimiser, as `optim` says it.
    optimizer: str | None = None
    adam_epsilon: float | None = None
    #: Rows of one pass; for pairs of answers, pairs.
    micro_batch: Annotated[int | None, Field(ge=1), RAN_WITH] = None
    gradient_checkpointing: Annotated[bool | None, RAN_WITH] = None
    #: Tokens whose logits are in memory at a time; None: all supervised ones of a pass.
    logit_chunk_tokens: Annotated[int | None, Field(ge=1), RAN_WITH] = None
    activation_offloading: Annotated[bool | None, RAN_WITH] = None
    packed: Annotated[bool | None, RAN_WITH] = None
    row_attention: Annotated[bool | None, RAN_WITH] = None
    #: With which settings memory ran out, and what followed.
    memory_steps: Annotated[str | None, RAN_WITH] = None
    #: The largest dropout probability of the base itself in training.
    base_dropout: float | None = None
    #: How the base's weights are held while they are trained over.
    base_weights: Annotated[Literal["native", "packed", "wide"] | None, RAN_WITH] = None
    #: The releases of adapterctl, of Python and of the accelerator's driver.
    adapterctl: Annotated[Release | None, RAN_WITH, IF_SET] = None
    python: Annotated[Release | None, RAN_WITH, IF_SET] = None
    driver: Annotated[Release | None, RAN_WITH, IF_SET] = None
    device: Annotated[str | None, RAN_WITH] = None
    device_name: Annotated[str | None, RAN_WITH] = None
    #: What products are computed in.
    dtype: Annotated[Literal["bfloat16", "float16", "float32"] | None, RAN_WITH] = None
    adapter_dtype: str | None = None
    #: Threads that compute on a CPU.
    threads: Annotated[int | None, RAN_WITH] = None
    #: The digest of the texts whose predictions were recorded.
    probe_texts: Annotated[str | None, IF_SET] = None
    #: The rules by which it was advised at its end, with commas.
    advice: Annotated[str | None, IF_SET] = None
    #: The job that was run again with other options, and which.
    retry_of: Annotated[str | None, IF_SET] = None
    changed: Annotated[str | None, IF_SET] = None
    #: The sweep that it was a member of, and which: "ID/NUMBER".
    sweep: Annotated[str | None, IF_SET] = None
    #: The step of the checkpoint that the version was published from.
    checkpoint_step: Annotated[int | None, IF_SET] = None

    def ran_with(self) -> dict[str, JsonScalar]:
        """Return what is recorded of the rows and the environment that can change what a training computes."""
        return {"loop": self.loop, **{name: value for name, value in self.flat().items() if name in _RAN_WITH}}

    @property
    def held_out_warning(self) -> str | None:
        """What to say if held-out rows were trained on."""
        if not self.held_out_rows_in_training:
            return None
        return f"{self.held_out_rows_in_training} of the held-out rows are training rows too, so their loss says too little"


_RAN_WITH = frozenset(name for name, field in TrainingRecord.model_fields.items() if RAN_WITH in field.metadata)


class MergeRecord(FlatRecord):
    """What is recorded of the merge that made a model."""

    merge_onto: str | None = None
    merge_dtype: str | None = None
    #: What was read back from its files, as `ReadBack` says it.
    read_back_tensors: int | None = None
    read_back_copied: int | None = None
    read_back_rows: int | None = None
    read_back_prompts: str | None = None


class CombineRecord(FlatRecord):
    """What is recorded of the combination that made an adapter, as `CombineSpec` says it."""

    combine_method: str | None = None
    combine_rank: int | None = None
    combine_dtype: str | None = None
