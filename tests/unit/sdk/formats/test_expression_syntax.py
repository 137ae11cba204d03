"""The syntax that is read here is that of `re`: accepted only if it compiles there, and refused only for a known reason."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.soak import scale

from sdk.formats.expressions import Automaton, Budget, ExpressionError

#: As PEFT's documentation, its conversion scripts, Unsloth, and the authors of multimodal models write them.
CORPUS = {
    r".*\.(q_proj|v_proj)": ["model.layers.0.self_attn.q_proj", "q_proj"],
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$": ["decoder.block.0.layer.0.SelfAttention.q", "encoder.q"],
    r"^(?!.*lm_head).*$": ["model.layers.0.mlp.up_proj", "lm_head"],
    r"^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*": ["visual.q_proj", "model.q_proj"],
    r"model\.layers\.(?:1[0-9]|2[0-7])\.(?:self_attn|mlp)\.\w+_proj": [
        "model.layers.12.mlp.up_proj",
        "model.layers.9.q_proj",
    ],
    # Unsloth, for all parts of a model with a tower for pictures.
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))": [
        "model.language_model.layers.0.self_attn.q_proj",
        "model.layers.31.mlp.down_proj",
        "model.layers.31.norm",
        "xmodel.layers.1.mlp.fc1",
    ],
    # Qwen2-VL, Gemma 3, LLaVA, Idefics, InternVL.
    r"^(?!.*visual).*\.(?:qkv|proj|[qkvo]_proj)$": ["visual.blocks.0.attn.qkv", "model.layers.0.self_attn.o_proj"],
    r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj": [
        "model.language_model.layers.7.mlp.up_proj",
        "model.vision_tower.layers.7.mlp.up_proj",
    ],
    r"(?:language_model|multi_modal_projector)(?:\.\w+)*\.(?:linear_\d|[a-z]_proj)": [
        "multi_modal_projector.linear_1",
        "language_model.model.layers.0.self_attn.q_proj",
    ],
    r".*(text_model|modality_projection|perceiver_resampler).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$": [
        "model.text_model.layers.0.self_attn.k_proj",
        "model.vision_model.encoder.layers.0.self_attn.k_proj",
    ],
    r"(?P<tower>vision_model)\.encoder\.layers\.(?:0|[1-9]\d?)\.attn\.(qkv|proj)": [
        "vision_model.encoder.layers.23.attn.qkv",
        "vision_model.encoder.layers.023.attn.qkv",
    ],
    r"(.*\.)?experts\.\d{1,3}\.w[123]": ["model.layers.0.block_sparse_moe.experts.7.w3", "experts.1234.w1"],
    r"[^.]+(?:\.[^.]+)*\.dense(?:_h_to_4h|_4h_to_h)?": ["transformer.h.0.mlp.dense_h_to_4h", "dense"],
}

#: What expressions are made of, right and wrong, and what looks like it.
TOKENS = [
    *("a", "b", "Z", "é", "9", "-", "#", "\n", ".", "^", "$", "|", "|", "{", "}", "]", "\\"),
    *(r"\d", r"\W", r"\s", r"\b", r"\B", r"\A", r"\Z", r"\n", r"\.", r"\é", r"\q", r"\_"),
    *(r"\x41", r"\x4", r"\u0041", r"\U00000041", r"\U00110000", r"\N{BULLET}", r"\N{nope}"),
    *(r"\0", r"\08", r"\101", r"\400", r"\1", r"\8", r"\12"),
    *("[ab]", "[^ab]", "[a-q]", "[q-a]", "[]a]", "[^]a]", "[a-]", "[-a]", r"[\d-]", r"[a-\d]", r"[\x41-\132]", r"[\8]"),
    *(r"[\b]", "[", "[^", "[[a]", "[a--b]", "[a&&b]", "[a||b]", r"[\q]", r"[\]a]"),
    *("*", "+", "?", "*?", "+?", "??", "++", "{2}", "{,2}", "{2,}", "{1,2}?", "{2,1}", "{,}", "{}", "{4294967295}"),
    *("(", "(", "(?:", "(?:", "(?=", "(?!", "(?P<x>", "(?P<y>", "(?P<1>", ")", ")", ")", ")", "(?#c)", "(?#"),
    *("(?i)", "(?ms)", "(?x)", "(?u)", "(?z)", "(?i:", "(?-i:", "(?<=", "(?<!", "(?>", "(?P=x)", "(?(1)", "(?"),
]
NAMES = [
    "",
    "a",
    "a\n",
    "b",
    "ab",
    "aab",
    "Z",
    "A",
    "é",
    "9",
    "a9",
    "s",
    "S",
    "ſ",
    "-",
    "]",
    "{}",
    "a\nb",
    "\x00",
    "•",
    "z",
]


def expressions() -> st.SearchStrategy[str]:
    inner = st.recursive(
        st.sampled_from([token for token in TOKENS if token[0] not in "()|"]),
        lambda below: st.one_of(
            st.lists(below, max_size=3).map("".join),
            st.builds(
                "{}{}){}".format,
                st.sampled_from(["(", "(?:", "(?=", "(?!"]),
                st.lists(below, min_size=1, max_size=3).map("|".join),
                st.sampled_from(["", "", "*", "?", "{2}"]),
            ),
        ),
        max_leaves=6,
    )
    starts = st.sampled_from(["", "", "", "(?i)", "(?s)", "(?#c)(?m)"])
    return st.lists(st.sampled_from(TOKENS), max_size=8).map("".join) | st.builds(str.__add__, starts, inner)


@settings(max_examples=scale(3000), deadline=None)
@given(expressions(), st.booleans())
@example("(?au)a", True)
@example("[]", False)
@example(r"(?x)#\400", False)
@example("a(?#c)*", False)
@example("(?#c)(?i)A", True)
@example("(?:)(?i)a", True)
@example("(?P<x>a)(?P<x>a)", False)
@example("(?:ab|ac|a)b?", False)
@example("a$", True)
@example("a$\n", True)
@example(r"a\Z", True)
@example("(?m)^a$", True)
@example("(?i)[^s]", True)
@example("(?i)ſ", True)
def test_what_is_read_is_what_re_reads(expression: str, within: bool) -> None:
    try:
        compiled = re.compile(expression)
    # `re` lets a ValueError through for flags that exclude each other, and warns of sets that may be nested one day.
    except (re.error, OverflowError, ValueError, FutureWarning):
        compiled = None
    try:
        automaton = Automaton([expression], within=within)
    except ExpressionError as error:
        reason = str(error)
        assert compiled is None or "not a regular" not in reason
        return
    assert compiled is not None
    for name in NAMES:
        if not name and r"\B" in expression:
            # What it means in an empty text changed with Python 3.14.
            continue
        if within:
            wanted = compiled.search(name) is not None
        else:
            wanted = "\n" not in name and compiled.fullmatch(name) is not None
        assert (automaton.first(name, Budget(100_000)) == 0) is wanted, name


@pytest.mark.parametrize("expression", CORPUS)
def test_what_people_write_is_read(expression: str) -> None:
    automaton = Automaton([expression])
    for name in CORPUS[expression]:
        for changed in (name, f"base_model.{name}", name.replace(".0.", ".10."), name + ".x", name[1:], name.upper()):
            found = automaton.first(changed, Budget(100_000)) == 0
            assert found is (re.fullmatch(expression, changed) is not None), changed


def test_letters_of_every_script_are_the_same_if_they_are_for_re() -> None:
    letters = "".join(
        letter for letter in map(chr, range(0x110000)) if letter.upper() != letter or letter.lower() != letter
    )
    for letter in [*"kK\u212asſéςσİıßẞя", *letters[::101]]:
        found = Automaton([f"(?i){re.escape(letter)}"], within=True)
        wanted = set(re.findall(re.escape(letter), letters, re.IGNORECASE))
        assert {other for other in letters if found.first(other, Budget(1000)) is not None} == wanted
