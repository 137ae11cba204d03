"""`data check` of what is registered: found by its name, read by the columns that it was added with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.tenants import Tenant

from sdk.errors import NotFound

COLUMNS = "prompt=question,completion=answer"


def test_a_dataset_is_checked_by_its_name_and_columns(join: Callable[[], Tenant], tmp_path: Path) -> None:
    tenant = join()
    rows, held = tmp_path / "faq.csv", tmp_path / "held.csv"
    rows.write_text("id,question,answer\n1,q,a\n2,q,a\n3,r,b\n")
    held.write_text("id,question,answer\n9,R,b\n")
    tenant.client.datasets.add(rows, name="faq", namespace=tenant.space, columns=COLUMNS)
    tenant.client.datasets.add(held, name="faq-held", namespace=tenant.space, columns=COLUMNS)
    audit = tenant.client.datasets.check("faq", eval_data="faq-held@v1")
    assert audit.data == "the dataset faq@v1"
    assert {finding.kind: finding.examples[0].rows for finding in audit.findings} == {
        "exact_duplicate": ["line 2", "line 3"],
        "held_out_normalised": ["line 4"],
    }
    with pytest.raises(NotFound, match="there is no file and no dataset"):
        join().client.datasets.check("faq")
