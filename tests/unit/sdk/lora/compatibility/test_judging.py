"""The answer as a whole: its verdict, versions, flags, commands and what makes it fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.auto import modeling_auto

from sdk.lora import gguf_models
from sdk.lora.compatibility import ENGINES, AdapterFacts, Verdict, judge
from sdk.lora.compatibility.engines import UnknownVersion, parse
from sdk.lora.compatibility.judging import EXPORTED, UnknownEngine, values

PLAIN = AdapterFacts(
    rank=8, alpha=16.0, target_modules=("q_proj", "v_proj"), architecture="LlamaForCausalLM", tied=False, base="b"
)

_NAMES = ["q_proj", "k_proj", "v_proj", "up_proj", "gate_proj", "lm_head", "embed_tokens", "c_attn", "x.vision.q_proj"]
_ARCHITECTURES = [None, "LlamaForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM", "Qwen3MoeForCausalLM", "XForCausalLM"]
_MAYBE = st.sampled_from([None, True, False])
FACTS = st.builds(
    AdapterFacts,
    rank=st.integers(1, 600),
    alpha=st.floats(0.5, 64),
    target_modules=st.none() | st.lists(st.sampled_from(_NAMES), unique=True).map(tuple),
    rank_pattern=st.dictionaries(st.sampled_from(_NAMES), st.integers(1, 600), max_size=2),
    alpha_pattern=st.dictionaries(st.sampled_from(_NAMES), st.floats(0.5, 64), max_size=2),
    use_rslora=st.booleans(),
    use_dora=st.booleans(),
    bias=st.sampled_from(["none", "all"]),
    lora_bias=st.booleans(),
    fan_in_fan_out=st.booleans(),
    excludes=st.booleans(),
    modules_to_save=st.lists(st.sampled_from(["score", "lm_head"]), unique=True).map(tuple),
    target_parameters=st.sampled_from([(), ("experts.down_proj",)]),
    trained_tokens=st.booleans(),
    unusable=st.sampled_from([None, "it changes the base"]),
    other=st.sampled_from([(), ("use_qalora",)]),
    vocabulary_changed=_MAYBE,
    saved_embeddings=st.booleans(),
    architecture=st.sampled_from(_ARCHITECTURES),
    tied=_MAYBE,
    quantization=st.sampled_from([None, "nf4"]),
    has_template=_MAYBE,
    has_generation=_MAYBE,
    template_is_base=_MAYBE,
    stop_ids=st.sampled_from([None, (), (2,), (2, 7)]),
    base_stop_ids=st.sampled_from([None, (2,)]),
    is_folder=st.booleans(),
)
_VERSIONS = {
    "vllm": ["0.6.0", "0.32.0", "0.33.0", "1.0.0"],
    "sglang": ["0.4.0", "0.5.22", "0.5.23", "0.6.0"],
    "llama.cpp": ["b1000", "9000", "b11549", "b20000"],
    "ollama": ["0.5.0", "0.32.15", "v0.33.0-rc2", "1.0.0"],
    "peft": ["0.4.0", "0.21.1", "0.21.2", "1.0.0"],
}
_ASKED = st.sampled_from([(engine, version) for engine, some in _VERSIONS.items() for version in [None, *some]])


@given(FACTS, _ASKED)
def test_never_yes_where_a_rule_says_no_or_does_not_know(facts: AdapterFacts, asked: tuple[str, str | None]) -> None:
    found = judge(facts, *asked)
    verdicts = {finding.verdict for finding in found.findings}
    assert (found.answer is Verdict.YES) == (verdicts == {Verdict.YES})
    assert (found.answer is Verdict.NO) == (Verdict.NO in verdicts)
    assert (found.find_out is not None) == (found.answer is Verdict.UNKNOWN)
    # What is not served has no command that serves it, and nothing is mended that is served.
    assert bool(found.commands) == (found.answer is not Verdict.NO)
    assert found.fix is None or found.answer is Verdict.NO
    assert all(finding.reason and not finding.reason.endswith(".") for finding in found.findings)


class TestVersions:
    @pytest.mark.parametrize(
        "version", ["", "new", "0", "0.33; rm -rf", "1.2.3.4.5", "-1.0", "0.33.0\n", "b11549", "9" * 99, "٠.٣٣.٠"]
    )
    def test_what_is_no_version_is_refused(self, version: str) -> None:
        with pytest.raises(UnknownVersion, match=r"is not a version of vllm; give one as 0\.33\.0"):
            judge(PLAIN, "vllm", version)

    @pytest.mark.parametrize("version", ["0.33.0", "b", "b12", "master", "٣٣٣٣"])
    def test_llama_cpp_has_builds(self, version: str) -> None:
        with pytest.raises(UnknownVersion, match="give the number of a build, as b11549"):
            judge(PLAIN, "llama.cpp", version)

    @pytest.mark.parametrize("version", ["0.33.0", "v0.33.0", "0.33.0rc1", "0.33.0.post1", "0.33.0+cu129", "0.33"])
    def test_the_ways_a_release_is_written(self, version: str) -> None:
        assert parse(version, "vllm") == (0, 33, 0)

    def test_a_newer_one_is_judged_by_the_newest_rules_and_says_so(self) -> None:
        found = judge(PLAIN, "vllm", "9.0.0")
        assert (found.answer, found.judged_by, found.version) == ("yes", "0.33.0", "9.0.0")
        assert found.notes[0] == "9.0.0 was not read, but 0.33.0 and 0.32.0: the rules of 0.33.0 were applied"
        # What no version that was read has, a newer one has not either, as far as is known.
        assert judge(replace(PLAIN, architecture="GPT2LMHeadModel"), "vllm", "9.0.0").answer == "no"

    @pytest.mark.parametrize(
        ("engine", "version", "release"),
        [("vllm", "0.32.1", "0.32.0"), ("vllm", "0.33.0.post1", "0.33.0"), ("llama.cpp", "b9000", "b8672")],
    )
    def test_one_between_two_is_judged_by_the_one_before_it(self, engine: str, version: str, release: str) -> None:
        found = judge(PLAIN, engine, version)
        assert (found.answer, found.judged_by, found.version) == ("yes", release, version)
        # A post-release counts as its release.
        assert found.notes[0].startswith(f"{version} was not read") == ("post" not in version)

    @pytest.mark.parametrize(
        ("engine", "version", "known"),
        [
            ("vllm", "0.31.0", "0.33.0 and 0.32.0"),
            ("sglang", "0.5.21", "0.5.23 and 0.5.22"),
            ("llama.cpp", "b8671", "b11549 and b8672"),
            ("ollama", "0.25.0", "0.33.0 and 0.32.15"),
            ("peft", "0.8", "0.21.2 and 0.21.1"),
        ],
    )
    def test_an_older_one_is_not_known(self, engine: str, version: str, known: str) -> None:
        found = judge(PLAIN, engine, version)
        assert (found.answer, found.judged_by) == ("unknown", known.rpartition(" ")[2])
        assert [finding.reason for finding in found.against] == [
            f"{engine} {version} is not known here: the table has {known}"
        ]

    def test_an_engine_without_a_table(self) -> None:
        with pytest.raises(UnknownEngine, match=r"give one of vllm, sglang, llama\.cpp, ollama, peft"):
            judge(PLAIN, "tgi")


class TestServing:
    @pytest.mark.parametrize(
        ("rank", "step"), [(1, 1), (2, 8), (8, 8), (9, 16), (24, 32), (65, 128), (257, 320), (512, 512)]
    )
    def test_the_smallest_step_of_vllm(self, rank: int, step: int) -> None:
        vllm, facts = ENGINES["vllm"], replace(PLAIN, rank=rank)
        assert values(facts, vllm, vllm.releases[0])["step"] == step
        assert (f"--max-lora-rank {step}" in judge(facts, "vllm").flags) == (step > 16)

    def test_a_pattern_counts_for_the_step(self) -> None:
        assert "--max-lora-rank 64" in judge(replace(PLAIN, rank_pattern={"q_proj": 40}), "vllm").flags

    def test_template_and_stops_are_passed_on(self) -> None:
        facts = replace(
            PLAIN, has_template=True, has_generation=True, stop_ids=(2, 7), base_stop_ids=(2,), name="x", folder="./x"
        )
        assert judge(facts, "vllm").commands == (
            "adapterctl pull REF -o ./x",
            "vllm serve b --enable-lora --lora-modules x=./x --chat-template ./x/chat_template.jinja --generation-config ./x",
        )
        assert judge(facts, "sglang").flags == (
            "--enable-lora",
            "--lora-paths x=./x",
            "--max-lora-rank 8",
            "--lora-target-modules q_proj v_proj",
            "--chat-template ./x/chat_template.jinja",
        )
        assert "stop_token_ids: [7]" in " ".join(judge(facts, "sglang").notes)
        assert judge(facts, "llama.cpp").flags == (
            "--lora x.gguf",
            "--jinja",
            "--chat-template-file ./x/chat_template.jinja",
        )
        assert judge(facts, "ollama").flags == ("FROM ./BASE.gguf", "ADAPTER ./x.gguf")
        same = replace(facts, template_is_base=True, stop_ids=(2,))
        assert judge(same, "vllm").flags == ("--enable-lora", "--lora-modules x=./x")

    def test_what_makes_it_fit(self) -> None:
        dora = replace(PLAIN, use_dora=True, ref="x@v3")
        assert [judge(dora, engine).fix for engine in ("vllm", "llama.cpp")] == [
            "adapterctl merge x@v3 -o ./merged"
        ] * 2
        folder = replace(dora, is_folder=True, folder="./x", name="x")
        assert judge(folder, "vllm").fix == "adapterctl push ./x x && adapterctl merge x -o ./merged"
        assert (
            "adapterctl export x@v3 --to lora --rank R -o ./plain makes a plain LoRA" in judge(dora, "vllm").notes[-1]
        )
        folder = replace(folder, base_folder="./b")
        assert judge(folder, "sglang").notes[-1].startswith("adapterctl export ./x --to lora --base ./b --rank R")
        # A base that has no conversion has none when it is merged either.
        assert judge(replace(PLAIN, architecture="OPTForCausalLM"), "llama.cpp").fix is None

    def test_what_is_the_same_as_a_plain_lora_is_made_one(self) -> None:
        patterns = replace(PLAIN, rank_pattern={"q_proj": 4}, use_rslora=True, ref="x@v3")
        plain = "adapterctl export x@v3 --to lora -o ./plain"
        assert judge(patterns, "sglang").fix == plain
        assert judge(replace(patterns, is_folder=True, folder="./x"), "sglang").fix == plain.replace("x@v3", "./x")
        # What a plain LoRA can't hold either is merged.
        for more in ({"bias": "all"}, {"modules_to_save": ("norm",)}, {"saved_embeddings": True}):
            assert judge(replace(patterns, **more), "sglang").fix == "adapterctl merge x@v3 -o ./merged"
        wide = judge(replace(PLAIN, rank=600, ref="x@v3"), "vllm")
        assert wide.fix == "adapterctl merge x@v3 -o ./merged"
        assert "--to lora --rank R" in wide.notes[-1]

    def test_what_is_not_recorded_is_said(self) -> None:
        assert any("is not recorded; ask whoever trained it" in note for note in judge(PLAIN, "vllm").notes)
        assert any(
            "was trained over a base in nf4" in note for note in judge(replace(PLAIN, quantization="nf4"), "vllm").notes
        )


def test_an_answer_as_plain_values() -> None:
    for engine in ENGINES:
        plain = judge(PLAIN, engine).as_dict()
        assert plain["answer"] == "yes"
        assert plain["engine"] == engine
        assert plain["tables_day"] > "2026-01-01"
        assert plain["findings"][0].keys() == {
            "rule",
            "verdict",
            "reason",
            "source",
            "mended_by_merge",
            "mended_by_plain",
        }
        assert all(type(finding["verdict"]) is str for finding in plain["findings"])


def test_a_gguf_is_made_by_an_export_where_there_is_one() -> None:
    names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    assert {names[kind] for kind in gguf_models._FAMILIES} == EXPORTED
    assert set(ENGINES["llama.cpp"].architectures) >= EXPORTED

    def made_by(**change: object) -> str:
        facts = replace(PLAIN, ref="x@v3", name="x", folder="./x", base_folder="./b", **change)  # type: ignore[arg-type]
        return judge(facts, "llama.cpp").commands[-2]

    assert made_by() == "adapterctl export x@v3 -o x.gguf"
    assert made_by(is_folder=True) == "adapterctl export ./x --base ./b -o x.gguf"
    assert made_by(architecture="Qwen2ForCausalLM") == "python convert_lora_to_gguf.py --base ./b --outfile x.gguf ./x"


_IN_TEXT = "model.language_model.layers.0.self_attn.q_proj"
_IN_IMAGES = "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("targets", "modules", "answer"),
    [
        (("q_proj",), (_IN_TEXT,), "yes"),
        (("q_proj",), (_IN_TEXT, _IN_IMAGES), "unknown"),
        # Of a version only the targets are known.
        (("q_proj",), None, "unknown"),
        (("down_proj", "o_proj"), None, "yes"),
        ((_IN_TEXT,), None, "yes"),
        ((_IN_IMAGES,), None, "unknown"),
        (("fc1",), None, "unknown"),
        # A pattern: the tensors say what it means, and only they are converted.
        (None, (_IN_TEXT,), "yes"),
        (None, (_IN_TEXT, _IN_IMAGES), "unknown"),
        (None, (_IN_TEXT, "model.language_model.embed_tokens"), "no"),
        (None, None, "unknown"),
    ],
)
def test_of_a_model_that_sees_images_the_text_part_is_converted(
    targets: tuple[str, ...] | None, modules: tuple[str, ...] | None, answer: str
) -> None:
    facts = replace(
        PLAIN, architecture="Gemma3ForConditionalGeneration", tied=True, target_modules=targets, modules=modules
    )
    found = judge(facts, "llama.cpp")
    assert found.answer == answer
    assert "convert_lora_to_gguf" not in f"{found.find_out} {found.commands}"


class TestBase:
    """A registered id is not a path: what commands take is its folder, or its name on a hub."""

    REGISTERED = replace(PLAIN, base=AdapterFacts.base, base_said="tiny-llama", ref="x@v3")

    @pytest.mark.parametrize("engine", ["vllm", "sglang", "llama.cpp", "ollama", "peft"])
    def test_a_registered_id_stands_in_no_command(self, engine: str) -> None:
        found = judge(self.REGISTERED, engine)
        assert "tiny-llama" not in f"{found.commands} {found.flags}"
        assert found.notes[0] == (
            "BASE stands for the base tiny-llama: its folder, or its name on a hub; BASE_FOLDER is the folder"
        )

    @pytest.mark.parametrize("engine", ["llama.cpp", "ollama"])
    def test_a_gguf_of_the_base_is_made_by_an_export_where_there_is_one(self, engine: str) -> None:
        known = replace(self.REGISTERED, base="./b", base_folder="./b")
        assert "adapterctl export ./b -o BASE.gguf" in judge(known, engine).commands
        assert "adapterctl export BASE_FOLDER -o BASE.gguf" in judge(self.REGISTERED, engine).commands
        # Adapters over it are exported, and models of it are not.
        gemma = replace(known, architecture="Gemma2ForCausalLM")
        assert "python convert_hf_to_gguf.py ./b --outfile BASE.gguf" in judge(gemma, engine).commands
