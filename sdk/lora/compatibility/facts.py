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
class AdapterFacts:
    """What is known about an adapter. None means "unknown", never "no"."""

    rank: int
    alpha: float
    #: Names as in `adapter_config.json`; None if it has a pattern.
    target_modules: tuple[str, ...] | None
    #: Full names of the adapted modules; None if only target_modules is known.
    modules: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    #: Whether some of the modules that target_modules matches are not adapted.
    excludes: bool = False
    modules_to_save: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    trained_tokens: bool = False
    #: Why A and B aren't an update of the base as it is, as a clause; None if they are.
    unusable: str | None = None
    #: What its weights have that its configuration, or its base, doesn't mention, as a clause, and whether that decides.
    contradiction: tuple[Verdict, str] | None = None
    #: Settings without a field of their own that are not PEFT's defaults: "use_qalora", "use_bdlora", …
    other: tuple[str, ...] = ()
    #: Whether its embeddings have another number of tokens than the base's.
    vocabulary_changed: bool | None = False
    #: Whether it contains whole embeddings besides A and B.
    saved_embeddings: bool = False
    #: From the base's config.json: "LlamaForCausalLM".
    architecture: str | None = None
    #: Whether the base's head is tied to its embeddings.
    tied: bool | None = None
    #: The base as commands take it: its folder or its name on a hub, not its id in a registry.
    base: str = "BASE"
    #: Its folder.
    base_folder: str = "BASE_FOLDER"
    #: Its name in the registry, or the one that the training used; None if unknown.
    base_said: str | None = None
    #: "qlora", "lora" or "unknown".
    method: str = "unknown"
    #: How the base was quantised during training, as "nf4"; None if it wasn't, or if that is unknown.
    quantization: str | None = None
    #: Whether a chat template, and a generation config, come with it; None if that is unknown.
    has_template: bool | None = None
    has_generation: bool | None = None
    #: Whether its template is byte for byte the base's; None if either is unknown.
    template_is_base: bool | None = None
    #: The tokens that end the texts it was trained on; None if unknown.
    stop_ids: tuple[int, ...] | None = None
    #: The tokens at which the base's own configuration stops; None if unknown.
    base_stop_ids: tuple[int, ...] | None = None
    #: The version, as REF of commands, or the folder.
    ref: str = "REF"
    #: Its name in requests, and the folder that it is pulled to.
    name: str = "adapter"
    folder: str = "./adapter"
    #: Whether it is a folder rather than a version in a registry.
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
        """The patterns that give a module a rank other than the adapter's."""
        return {name: rank for name, rank in self.rank_pattern.items() if rank != self.rank}

    @property
    def other_alphas(self) -> dict[str, float]:
        """The patterns that give a module an alpha other than the adapter's."""
        return {name: alpha for name, alpha in self.alpha_pattern.items() if alpha != self.alpha}

    @property
    def foreign_stops(self) -> tuple[int, ...]:
        """The tokens at which it stops but the base does not, or may not."""
        return tuple(i for i in self.stop_ids or () if i not in (self.base_stop_ids or ()))
