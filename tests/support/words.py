"""Words that no message, help text or page of this product uses, since people of the trade have others for what they mean.

The texts are read from the source: every text in the packages that is not a docstring (docstrings of commands are in `docs/cli.md`,
which a test holds against the program), templates and scripts of the pages, and the prose of README and docs. Run it to see what is
left, with file and line: `PYTHONPATH=tests python -m support.words`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sdk", "registry", "workers", "adapterctl", "adapterctl_entry")


class Word(NamedTuple):
    """A word that is not used."""

    pattern: str
    why: str
    #: What to write instead, or how.
    instead: str
    #: A text that has it, as it once was.
    wrong: str


_UNITS = r"nats|bits|bytes|rows|tokens|samples|steps|requests|looks?|records?|sequences|[kKMG]i?B|ms|µs|s|GPU-hours?|\}"
_PER = r"token|row|record|second|minute|hour|step|line|sample|request|sequence|GPU"

WORDS = (
    Word(
        r"can't be(?: so)?;",
        "names nothing that is wrong",
        "rank can't be 0; use …",
        "rank: 0 can't be; give 1 or more",
    ),
    Word(
        r"(?<!here )\b(?:is|are) no (?!longer|better|older|newer|more|less|other|larger|smaller|higher|lower|part|doubt|reason|use\b|"
        r"way|room|need)\w",
        "a negated verb, not a negated noun",
        "is not a",
        "'H9000' is no card",
    ),
    Word(
        r"\b(?:was|were|is|are) taken for\b|\btaken for which\b",
        "a paraphrase",
        "predicted as; confusion matrix",
        "which were taken for which",
    ),
    Word(r"\btaken off\b", "a paraphrase", "removed, without", "with the adapter taken off"),
    Word(r"\bsaid\b", "programs report, files state", "reported, given, stated, shown", "what the registry last said"),
    Word(
        r"\bbeside\b",
        "archaic where it means more than a place",
        "with, on, next to, besides",
        "serve it beside its base",
    ),
    Word(r"\btold\b(?! apart)", "programs aren't told things", "given, reported, distinguished", "what it was told"),
    Word(r"\btells\b", "programs report, numbers show", "shows, reports, says", "the test set tells how good it is"),
    Word(
        r"\b(?:is|are) there (?:twice|again|at once|in only)\b|\b(?:is|are) there[.;]",
        "German",
        "is given twice, exists",
        "'a' is there twice; leave one",
    ),
    Word(rf"(?:\b(?:{_UNITS})|(?<=\}})) an? (?:{_PER})\b(?! of\b)", "a rate", "per", "2 nats a token"),
    Word(
        r"\bhow sure the\b|as often as it is sure",
        "a paraphrase",
        "calibration, confidence",
        "how sure the adapter was",
    ),
    # Model cards are cards, and so is what somebody pays with in an example's rows.
    Word(
        r"(?<!model )(?<!by )(?<!large )(?<![/\w-])[Cc]ards?\b(?!\.\w)", "slang", "GPU, model card", "needs a CUDA card"
    ),
    Word(r"\bgradients are cut\b", "a paraphrase", "clipped", "norm that gradients are cut to"),
    Word(
        r"\b(?:rows?|longer ones|texts?|answers?|tokens) (?:is|are|was|were|would be) cut\b(?! (?:in|into)\b)",
        "a paraphrase",
        "truncated",
        "longer rows are cut",
    ),
    Word(r"\bleast (?:held-out )?loss\b", "a paraphrase", "lowest loss", "the least held-out loss"),
    Word(r"\banew\b", "archaic", "again, from scratch", "trained anew"),
    Word(
        r"\b(?:begins?|starts?|trained|scored|measured|taken|watched|continued) alike\b",
        "archaic",
        "in the same way",
        "measured alike",
    ),
    Word(r"\bgo together\b", "a paraphrase", "can't be combined", "--rows and --row don't go together"),
    Word(r"\bfits? these filters\b", "a paraphrase", "matches", "no job fits these filters"),
    Word(r"\bto whom may\b", "not English", "to people who may", "send it to whom may read it"),
    Word(r"\bstate to go on from\b", "a paraphrase", "checkpoint to resume from", "it has no state to go on from"),
    Word(r"\bended early\b", "a paraphrase", "stopped early", "it ended early"),
    Word(r"\badd(?:ed)? (?:\w+ ){0,4}up by weights?\b", "a paraphrase", "weighted sum", "add versions up by weights"),
    Word(
        r"\bpadded (?:on|at|from) the left\b|\bpad(?:ding)? on the left\b",
        "a paraphrase",
        "left-padded",
        "padded on the left",
    ),
    Word(
        r"\btokens (?:that )?(?:the )?loss is (?:taken|computed) (?:on|over)\b",
        "a paraphrase",
        "supervised tokens",
        "tokens that the loss is taken on",
    ),
    Word(
        r"\brows (?:that were )?kept back\b|\bset aside from training\b",
        "a paraphrase",
        "held-out rows",
        "rows that were kept back",
    ),
    Word(
        r"\bthere is no such field\b|\bit is missing; give it\b|\bInput should be\b(?! a text)",
        "pydantic's, or without a name",
        "FIELD is missing; add it",
        "Input should be a valid list",
    ),
    Word(
        r"\bafter so many\b|\bfor so many seconds\b",
        "German",
        "after this many, every N",
        "score rows after so many steps",
    ),
    Word(r"\btaught (?:with|no|by)\b", "a paraphrase", "trained with, trained on", "taught with another chat template"),
    Word(
        r"\bheld against\b(?! another with)|\bto hold \w+ against\b",
        "a paraphrase",
        "compared with",
        "held against the record",
    ),
    Word(r"\bis there and\b", "German", "exists and", "DIR is there and is not a folder"),
    Word(r"\b(?:learns?|learnt) by heart\b", "a paraphrase", "memorises, overfits", "rows are learnt by heart"),
    Word(
        r"\bactivations (?:are |that are )?computed twice\b|\bcompute activations twice\b",
        "a paraphrase",
        "gradient checkpointing, recomputed",
        "activations computed twice",
    ),
    Word(
        r"\bnumbers that are none\b|\ba number that is none\b",
        "a paraphrase",
        "not finite",
        "has numbers that are none",
    ),
    Word(r"\bdoesn't lie on\b", "German", "is not on", "the base doesn't lie on this machine"),
    Word(r"\bcall (?:it|the \w+) otherwise\b", "German", "give it another name", "call the scorer otherwise"),
    Word(r"\blast words\b", "a metaphor", "last output", "its last words"),
    Word(r", as of `", "German", "as in", "which columns are keys, as of `train`"),
    Word(r"\blikeliest tokens alone\b", "a paraphrase", "nucleus sampling", "choose among the likeliest tokens alone"),
    Word(
        r"\bloss is taken on\b|(?<=[0-9}] )learnt\b", "a paraphrase", "supervised", "tokens that the loss is taken on"
    ),
    Word(r"\bhas learnt (?:plain|no)\b", "a paraphrase", "was trained on", "v1 has learnt plain prompts"),
    Word(
        r"\b(?:thereof|therein|whereof|wherein|hitherto|thereby)\b", "archaic", "of it, in it, so far", "parts thereof"
    ),
)
ANY = re.compile("|".join(f"(?:{word.pattern})" for word in WORDS))
#: Texts and comments of Python. To parse all modules would take seconds.
_TOKENS = re.compile(
    r"""(?P<long>\"\"\".*?\"\"\"|\'\'\'.*?\'\'\')|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|\#[^\n]*""",
    re.DOTALL,
)
_PREFIXES = ("", "f", "r", "rf", "fr", "F", "R")
_FILLED = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")


class Hit(NamedTuple):
    """A word that is used."""

    file: str
    line: int
    word: Word
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.word.instead!r}, not {self.text!r}"


def hits() -> Iterator[Hit]:
    """Yield every place with one of the words."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        if "_migrations" not in path.parts:
            yield from _found(path, of_python(path.read_text()))
    for path in sorted((ROOT / "registry" / "web").rglob("*.html")):
        yield from _found(path, of_template(path.read_text()))
    for path in sorted((ROOT / "registry" / "web" / "static" / "scripts").glob("*.js")):
        yield from _found(path, of_script(path.read_text()))
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield from _found(path, of_page(path.read_text()))


def of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module, each whole, with `{}` for what is filled in; but no docstrings, and no names such as keys."""
    parts: list[str] = []
    begin = end = line = counted = 0
    for token in _TOKENS.finditer(source):
        if token["long"] is not None:
            # A docstring has a line of its own.
            head = source[source.rfind("\n", 0, token.start()) + 1 : token.start()].strip()
            text = None if head in (*_PREFIXES, "b") else token["long"][3:-3]
        else:
            text = None if token["text"] is None else token["text"][1:-1]
        if text is None:
            continue
        if not parts or source[end : token.start()].strip() not in _PREFIXES:
            if len(parts) > 1 or (parts and " " in parts[0]):
                line += source.count("\n", counted, begin)
                counted = begin
                yield line + 1, _FILLED.sub("{}", "".join(parts))
            parts, begin = [], token.start()
        parts.append(text)
        end = token.end()
    if parts:
        yield line + 1 + source.count("\n", counted, begin), _FILLED.sub("{}", "".join(parts))


def of_template(source: str) -> Iterator[tuple[int, str]]:
    """Yield what a template has besides comments, tags of Jinja, and tags of HTML; but not their titles and labels."""
    bare = re.sub(r"\{#.*?#\}|\{%.*?%\}", _blank, source, flags=re.DOTALL)
    for number, line in enumerate(re.sub(r"\{\{.*?\}\}", "{}", bare).splitlines(), 1):
        yield number, re.sub(r"""\b(?:class|id|href|for|name|data-[\w-]+|hx-[\w-]+)=("[^"]*"|'[^']*')""", "", line)


def of_script(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a script without comments."""
    for number, line in enumerate(source.splitlines(), 1):
        yield number, "" if line.lstrip().startswith(("//", "*", "/*")) else line


def of_page(source: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a page and what its examples print, but no Python and no code in a line."""
    inside, code = False, False
    paragraph: list[str] = []
    begin = 1
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.startswith("```"):
            inside, code = not inside, "python" in line or "toml" in line or "yaml" in line
            line = ""
        if inside:
            if not code:
                yield number, line
            continue
        if not line.strip():
            yield begin, re.sub(r"`[^`]*`|\]\([^)]*\)", "`…`", " ".join(paragraph))
            paragraph, begin = [], number + 1
        else:
            paragraph.append(line.strip())


def _blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def _found(path: Path, texts: Iterator[tuple[int, str]]) -> Iterator[Hit]:
    listed = list(texts)
    whole = "\0".join(text for _, text in listed)
    for word in WORDS:
        if re.search(word.pattern, whole) is None:
            continue
        for line, text in listed:
            for match in re.finditer(word.pattern, text):
                shown = text[max(0, match.start() - 50) : match.end() + 40].replace("\n", " ")
                yield Hit(str(path.relative_to(ROOT)), line, word, shown)


if __name__ == "__main__":
    left = [str(hit) for hit in hits()]
    print("\n".join(left))
    sys.exit(1 if left else 0)
