"""The YAML files of `train --config` and `sweep --config`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sdk.config import user_path
from sdk.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from sdk.schemas.wire import Wire

#: Keys that a configuration file may have besides the fields of TrainingSpec.
_JOB_KEYS = (
    "base",
    "base_namespace",
    "published",
    "parent",
    "like",
    "data",
    "eval_data",
    "test_data",
    "priority",
    "timeout",
    "device",
    "memory",
    "checkpoint_every",
    "from_checkpoint",
)
#: Those of a training that starts as another left off, which members of a sweep don't.
_NOT_OF_SWEEPS = ("like", "from_checkpoint")
#: Keys whose values YAML may read as another type, such as a name made of digits.
_TEXTS = ("base", "base_namespace", "parent", "like", "from_checkpoint")


def read_training_file(name: str) -> dict[str, Any]:
    """Read a YAML file of options. Raises NotFound, InvalidInput for an option that is unknown or occurs twice."""
    from sdk.schemas.training import TrainingSpec

    options = _read(name, {*TrainingSpec.model_fields, *_JOB_KEYS}, command="train")
    if isinstance(packing := options.get("packing"), bool):
        # YAML reads on and off, without quotes, as true and false.
        options["packing"] = "on" if packing else "off"
    return _with_numbers(options, TrainingSpec)


def read_sweep_file(name: str) -> dict[str, Any]:
    """Read a YAML file of options, of which those of a training may have several values. Raises as `read_training_file`."""
    from sdk.schemas.sweeps import SweepFields
    from sdk.schemas.training import TrainingSpec

    jobs = set(_JOB_KEYS) - set(_NOT_OF_SWEEPS)
    known = {*TrainingSpec.model_fields, *SweepFields.model_fields, "max_time", *jobs} - {"max_time_s"}
    return _with_numbers(_read(name, known, command="sweep"), SweepFields)


def _with_numbers(options: dict[str, Any], spec: type[Wire]) -> dict[str, Any]:
    numbers = [name for name, field in spec.model_fields.items() if "float" in str(field.annotation)]
    for key in numbers:
        options[key] = _as_float(options[key]) if key in options else None
    return {key: value for key, value in options.items() if value is not None}


def _read(name: str, known: Iterable[str], *, command: str) -> dict[str, Any]:
    """Read the options of a file, of those that are known."""
    import yaml

    path = user_path(name)
    try:
        text = path.read_text(encoding="utf-8")
        twice = _key_twice(text)
        found = yaml.safe_load(text)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}; check --config", param="config") from None
    except IsADirectoryError:
        raise InvalidInput(f"{path} is a folder; give a YAML file of options as --config", param="config") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not text in UTF-8; save it as that", param="config") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise InvalidInput(f"{path} can't be read as YAML{line}; correct it, then try again", param="config") from None
    if twice is not None:
        key, line_number = twice
        raise InvalidInput(f"{path}: {key[:80]!a} is given twice, again in line {line_number}; leave one", param=key)
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no options; write lines such as 'rank: 16'", param="config")
    known = set(known)
    options = {str(key).replace("-", "_"): value for key, value in found.items()}
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see: adapterctl {command} --help"
            raise InvalidInput(f"{path}: there is no option {key!a}; {hint}", param=key)
    for key in _TEXTS:
        if not isinstance(value := options.get(key), str | None):
            raise InvalidInput(f"{path}: {key} is {str(value)[:40]!a}, which is not text; put it in quotes", param=key)
    if not isinstance(options.get("published"), bool | None):
        raise InvalidInput(f"{path}: published is neither true nor false; write one of these", param="published")
    return options


def _key_twice(text: str) -> tuple[str, int] | None:
    """Return a key that the options, or a table in them, have twice, with the line of the second; YAML silently takes
    the last.
    """
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    tables = [root, *(value for _, value in root.value)] if isinstance(root, yaml.MappingNode) else []
    for table in tables:
        if not isinstance(table, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key in (key for key, _ in table.value if isinstance(key, yaml.ScalarNode)):
            # "batch-size" and "batch_size" are the same option.
            name = key.value.replace("-", "_") if table is root else key.value
            if name in seen:
                return key.value, key.start_mark.line + 1
            seen.add(name)
    return None


def _as_float(value: Any) -> Any:
    """YAML reads 2e-4 as text and 16 as a whole number; both are meant as numbers here."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
