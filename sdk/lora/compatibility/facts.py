"""What the rules look at: an adapter's configuration, its base, and what travels with it. Plain values, no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdk.lora.compatibility.answers import Verdict

#: The input embeddings and the output head, as models name them.
EMBEDDINGS = frozenset(
    {"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings", "tok_embeddings", "shared"}
)
#: Heads of classification, as transformers names them.
HEADS = frozenset({"score", "classifier"})


@dataclass(frozen=True)
class Facts:
    """An adapter, as far as it is known. None is "nobody knows", and never "no"."""

    rank: int
    alpha: float
    #: Names as `adapter_config.json` holds them; None where it has a pattern.
    target_modules: tuple[str, ...] | None
    #: Full names of the modules that are adapted; None where only target_modules is known.
    modules: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    #: Whether some of the modules that target_modules means are left alone.
    excludes: bool = False
    modules_to_save: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    trained_tokens: bool = False
    #: Why A and B are no update of the base as it is, in a clause; None where they are.
    unusable: str | None = None
    #: What its weights hold that its configuration, or its base, does not say, in a clause, and whether that decides.
    contradiction: tuple[Verdict, str] | None = None
    #: Settings without a field of their own that are not PEFT's defaults: "use_qalora", "use_bdlora", …
    other: tuple[str, ...] = ()
    #: Whether it holds embeddings of another number of tokens than the base has.
    vocabulary_changed: bool | None = False
    #: Whether it holds embeddings, whole, beside A and B.
    saved_embeddings: bool = False
    #: As the base's config.json says: "LlamaForCausalLM".
    architecture: str | None = None
    #: Whether the base's head is its embeddings.
    tied: bool | None = None
    #: The base as commands take it: its folder or its name on a hub. A registered id is neither of the two.
    base: str = "BASE"
    #: Its folder.
    base_folder: str = "BASE_FOLDER"
    #: What it is called in the registry, or where the adapter was trained; None where nobody says.
    base_said: str | None = None
    #: "qlora", "lora" or "unknown".
    method: str = "unknown"
    #: How the base was quantised while it was trained, as "nf4"; None where it was not, or nobody knows.
    quantization: str | None = None
    #: Whether a chat template, and a generation config, travel with it; None where it can't be seen.
    has_template: bool | None = None
    has_generation: bool | None = None
    #: Whether its template is byte for byte the base's; None where one of the two is not known.
    template_is_base: bool | None = None
    #: Tokens that end what it learnt; None where nobody said.
    stop_ids: tuple[int, ...] | None = None
    #: Tokens that the base's own configuration stops at; None where it is not known.
    base_stop_ids: tuple[int, ...] | None = None
    #: The version, as REF of commands, or the folder.
    ref: str = "REF"
    #: What requests call it, and the folder that it is pulled to.
    name: str = "adapter"
    folder: str = "./adapter"
    #: Whether it is a folder, and no version of a registry.
    is_folder: bool = False

    @property
    def last_names(self) -> frozenset[str]:
        """The last part of each target module's name."""
        return frozenset(name.rpartition(".")[2] for name in self.target_modules or ())

    @property
    def adapted_embeddings(self) -> frozenset[str]:
        """The target modules that are embeddings or the output head."""
        return self.last_names & EMBEDDINGS

    @property
    def largest_rank(self) -> int:
        """The largest rank of any module."""
        return max(self.rank, *self.rank_pattern.values()) if self.rank_pattern else self.rank

    @property
    def other_ranks(self) -> dict[str, int]:
        """The patterns that give a module another rank than the adapter's."""
        return {name: rank for name, rank in self.rank_pattern.items() if rank != self.rank}

    @property
    def other_alphas(self) -> dict[str, float]:
        """The patterns that give a module another alpha than the adapter's."""
        return {name: alpha for name, alpha in self.alpha_pattern.items() if alpha != self.alpha}

    @property
    def foreign_stops(self) -> tuple[int, ...]:
        """The tokens that it stops at and the base does not, or may not."""
        return tuple(i for i in self.stop_ids or () if i not in (self.base_stop_ids or ()))
