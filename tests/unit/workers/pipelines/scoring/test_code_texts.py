"""Whether answers are Python, without running any."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.pipelines.scoring.code_texts import code_parses


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("x = 1", 1),
        ("return x", 1),
        ("def f(:", 0),
        ("", 0),
        (" \n", 0),
        ("# nothing but this", 1),
        ("Sure, here is the function:", 0),
        ("Sure:\n\n```python\ndef f(x):\n    return x\n```\nIt returns x.", 1),
        ("```Py title=a.py\nx = 1\n```", 1),
        ("```\nx = 1\n```", 1),
        ("```python\ndef f(:\n```", 0),
        ("```rust\nx = 1\n```", 0),
        ("~~~python\nx = 1\n~~~", 1),
        # Each block is code.
        ("```python\nx = 1\n```\nand\n```python\ny =\n```", 0),
        # One that was cut, and a fence within a longer one.
        ("```python\nx = 1\n", 1),
        ("````python\n'''\n```\n'''\n````", 1),
        ("```python\n```", 0),
        ("привет = 'мир'", 1),
        # A block in a list, and one that goes further in than its fence.
        ("1. Do\n\n   ```python\n   def f(x):\n       return x\n   ```", 1),
        ("  ```\n  x = 1\n y = 2\n  ```", 1),
        ("  ```\n  x = 1\n    y = 2\n  ```", 0),
        ("```py3\nx = 1\n```", 1),
        ("```python3.11\nx = 1\n```", 1),
        ("```{python}\nx = 1\n```", 1),
        ("```{.python .numberLines}\nx = 1\n```", 1),
        ("```pyrex\nx = 1\n```", 0),
        # The body of a function.
        ("    y = x\n    return y", 1),
        ("    y = x\n  return y", 0),
        # Python warns of it; and what is parsed is not run.
        ("'\\d'", 1),
        ("raise SystemExit", 1),
        ("x\0", 0),
        ("'\ud800'", 0),
        ("(" * 100_000, 0),
        ("-" * 100_000 + "1", 0),
        ("a" + ".b" * 90_000, 0),
        ("1" * 5000, 0),
        ("x = 1\n" * 50_000, 0),
    ],
)
def test_by_hand(answer: str, expected: float) -> None:
    assert code_parses(answer) == expected


@given(st.text(alphabet="`~ \npyx=1(", max_size=40))
def test_whatever_is_generated_is_scored(answer: str) -> None:
    assert code_parses(answer) in (0.0, 1.0)


def test_fences_are_found_in_a_time_that_grows_with_the_text() -> None:
    started = time.process_time()
    code_parses(("```" + "a" * 20_000 + "`\n") * 5)
    code_parses("```" + " " * 100_000 + "`")
    assert time.process_time() - started < 2
