"""What to type to use a version: commands and lines of Python that do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sdk.schemas.catalog import KEPT, VersionView

_HUB = "hf"


@dataclass(frozen=True)
class Command:
    """One thing to do."""

    title: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class BasePlace:
    """What loads a base: a repository of the hub at a revision, or a folder; its name alone if nobody says where it is."""

    name: str
    revision: str | None = None
    is_known: bool = True

    @classmethod
    def of(cls, location: str | None, view: VersionView) -> BasePlace:
        """Read a registered location."""
        parts = urlsplit(location or "")
        if parts.scheme == _HUB:
            name, _, revision = f"{parts.netloc}{parts.path}".partition("@")
            return cls(name, revision or None)
        if parts.scheme == "file":
            return cls(unquote(parts.path))
        return cls(view.base.id, view.base.revision, is_known=view.base.revision is not None)


def commands_of(view: VersionView, base: BasePlace, *, is_proved: bool, was_trained: bool) -> list[Command]:
    """Return what there is to do with a version. `is_proved`: there is a record of what it answers, by which engines are
    proved to serve it; `was_trained`: a training of this registry made it.
    """
    return list(_commands(view, base, is_proved=is_proved, was_trained=was_trained))


def _commands(view: VersionView, base: BasePlace, *, is_proved: bool, was_trained: bool) -> Iterator[Command]:
    folder = _folder(view)
    yield Command("Pull its files", f"adapterctl pull {view.ref} -o ./{folder}")
    if view.kind == "merged":
        yield Command("Load it in transformers", "\n".join(_loading_whole(view, folder)))
        return
    where = "" if base.is_known else "its base's folder isn't registered: put its path in the place of its name"
    yield Command("Load it in PEFT", "\n".join(_loading(view, base, folder)), where)
    if view.state in ("ready", "archived"):
        proof = "" if is_proved else "there is no record of what it answers yet, so it is served unproved"
        yield Command("Serve it", f"adapterctl serve {view.ref}{'' if is_proved else ' --unprobed'}", proof)
        yield Command("See whether vLLM can serve it", f"adapterctl compat {view.ref} --engine vllm")
    if was_trained and view.state != KEPT:
        yield Command("Train again with the same configuration", f"adapterctl train {view.adapter} --like {view.ref}")
    elif view.state != KEPT and not view.parents:
        yield Command(
            "Record what it answers",
            f"adapterctl verify {view.ref} --probe --record",
            "it was pushed, so its record doesn't say how it was trained, and it can't be trained again from here",
        )
    yield Command("Check its bytes", f"adapterctl verify {view.ref}")


def _folder(view: VersionView) -> str:
    name = view.adapter.rpartition("/")[2]
    return f"{name}-v{view.number}" if view.number is not None else f"{name}-{view.digest[:12]}"


def _model(view: VersionView) -> str:
    return "AutoModelForSequenceClassification" if view.lora.task_type == "SEQ_CLS" else "AutoModelForCausalLM"


def _loading(view: VersionView, base: BasePlace, folder: str) -> Iterator[str]:
    model = _model(view)
    yield "from peft import PeftModel"
    yield f"from transformers import {model}"
    yield ""
    labels = None if view.dataset is None else view.dataset.labels
    options = [f"{base.name!a}"]
    options += [f"revision={base.revision!a}"] if base.revision else []
    options += [f"num_labels={len(labels)}"] if labels and view.lora.task_type == "SEQ_CLS" else []
    yield f"base = {model}.from_pretrained("
    yield from (f"    {option}," for option in [*options, 'dtype="auto"'])
    yield ")"
    yield f'model = PeftModel.from_pretrained(base, "./{folder}")'


def _loading_whole(view: VersionView, folder: str) -> Iterator[str]:
    model = _model(view)
    yield f"from transformers import {model}, AutoTokenizer"
    yield ""
    yield f'model = {model}.from_pretrained("./{folder}", dtype="auto")'
    yield f'tokenizer = AutoTokenizer.from_pretrained("./{folder}")'
