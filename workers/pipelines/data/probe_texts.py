"""A few fixed texts on which two models' predictions are compared.

Measurements on them are recorded with their digest: other texts would be another measurement.

>>> TEXTS_DIGEST[:12]
'e381bb3b6085'
"""

from __future__ import annotations

from sdk.schemas.wire import digest_of

#: Prose, code, a dialogue, a table and numbers: short, and of kinds that models are typically asked for.
PROBE_TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year. After two hours of debate, the members"
    " agreed to postpone the decision until the audit is complete, and asked the treasurer to prepare a summary.",
    "def moving_average(values, width):\n    if width < 1:\n        raise ValueError('width must be positive')\n"
    "    total = sum(values[:width])\n    yield total / width\n    for old, new in zip(values, values[width:]):\n"
    "        total += new - old\n        yield total / width\n",
    "Question: Why does ice float on water?\nAnswer: Ice is less dense than liquid water, because its molecules are"
    " held in an open lattice by hydrogen bonds. A given mass of ice therefore takes up more room than the water.\n",
    '{"order": 1042, "customer": "Ada Lovelace", "items": [{"sku": "A-7", "count": 3, "price": 19.99}],'
    ' "shipped": false, "note": "Leave the parcel with the neighbour."}',
)
#: SHA-256 over the texts as a JSON list.
TEXTS_DIGEST = digest_of(list(PROBE_TEXTS))
