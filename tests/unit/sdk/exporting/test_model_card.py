"""Model cards as the Hub's own library reads them, whatever the names in them are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard
from hypothesis import given
from hypothesis import strategies as st

from sdk.exporting.cards import merged_card, plain_card
from sdk.exporting.model_card import ModelCard, code, front_matter, license_of, render
from sdk.schemas.export import PlainLoraReport

REPORT: dict[str, Any] = {
    "onto": "original",
    "dtype": "bfloat16",
    "metrics": {"logit_kl_original": 1.5e-5, "max_abs_logit_diff": 0.02, "probe_tokens": 100.0, "logit_kl_nf4": 0.03},
    "read_back": {"tensors": 20, "copied": 12, "rows": 640, "prompts": "run"},
    "warnings": ["Rounding took it."],
}
HOSTILE = [
    'x"\n---\nlicense: mit\n',
    "[a](https://evil) <script>alert(1)</script>",
    "``` \n# head",
    "`",
    "\x00\x85\u2028\ud800😀",
    "- a: b",
    "",
]


def data_of(text: str) -> dict[str, Any]:
    """Return what the Hub's library reads in a card."""
    return HubCard(text).data.to_dict()


def test_a_merged_model_is_described() -> None:
    text = merged_card("team/docs@v3", {**REPORT, "quantized": {"type": "nf4", "weights": 14}}, None, None)
    assert data_of(text) == {"library_name": "transformers", "tags": ["lora", "merged", "bitsandbytes", "4-bit"]}
    for said in (
        "team/docs@v3",
        "12 of them the base's byte for byte",
        "KL 1.5e-05 nats per token",
        "KL 0.03",
        "took it",
    ):
        assert said in text
    assert "\nlicense" not in text


def card(**changed: Any) -> ModelCard:
    """Return a card over a base of the Hub."""
    given = {"title": "x", "base": "org/base", "relation": "finetune", "library": "transformers", "tags": ["lora"]}
    return ModelCard(**{**given, "made": [], "read_back": [], "loading": ["import torch"], **changed})


def test_the_base_is_named_where_the_hub_has_such_names() -> None:
    said = data_of(render(card(license={"license": "apache-2.0"})))
    assert (said["base_model"], said["base_model_relation"]) == ("org/base", "finetune")
    assert said["license"] == "apache-2.0"
    for base in ("tiny", "a/b/c", "org/ba se", "../x/y", "org/base\n", None):
        assert "base_model" not in data_of(render(card(base=base)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_a_name(name: str) -> None:
    said = card(title=name, base=name, made=[("adapter", name)], warnings=[name], tags=[name])
    text = render(said)
    read = data_of(text)
    assert read.keys() <= {"tags", "library_name"}
    body = text.split("---\n", 2)[2]
    # Nothing of it begins a line or leaves its span.
    lines = [line for line in body.splitlines() if line]
    assert [line for line in lines if line.startswith("#")] == [lines[0], "## Loading"]
    assert len(lines) == 8
    assert all("`" in line for line in lines if "script" in line or "evil" in line)


@given(st.text(max_size=40))
def test_every_text_is_read_back_from_the_front_matter(text: str) -> None:
    found = yaml.safe_load(front_matter({"a": text, "b": [text]}).split("---\n")[1])
    assert found == {"a": text, "b": [text]}
    span = code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert fence not in span[len(fence) : -len(fence)].strip(" ") or not fence
    assert span.isprintable()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("license: apache-2.0", {"license": "apache-2.0"}),
        ('license: "mit"', {"license": "mit"}),
        (
            "license: other\nlicense_name: llama3.1\nlicense_link: https://example.org/LICENSE",
            {"license": "other", "license_name": "llama3.1", "license_link": "https://example.org/LICENSE"},
        ),
        ("license: [mit, other]", {}),
        ("license_name: x", {}),
        ("license: mit\nlicense_link: javascript:alert(1)", {"license": "mit"}),
        ("tags: [a]", {}),
    ],
)
def test_the_licence_is_that_of_the_bases_own_card(said: str, found: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{said}\n---\n\nlicense: gpl\n")
    assert license_of(tmp_path) == found
    (tmp_path / "README.md").write_text(f"# A base\n\n{said}\n")
    assert license_of(tmp_path) == {}
    assert license_of(tmp_path / "nothing") == {}


def test_a_plain_lora_is_described(tmp_path: Path) -> None:
    report = PlainLoraReport(
        rank=8, alpha=16.0, dtype="f32", modules=4, size_bytes=1, cut=2, kept_energy=0.9876, error=1e-7, notes=["low"]
    )
    text = plain_card("docs", report, version=None, base_name="org/base", base=tmp_path)
    assert data_of(text) == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "tags": ["lora"],
    }
    assert "98.7600% of ‖ΔW‖², 2 modules were truncated" in text
