"""What oneDNN keeps for products that come again; apart from the forecasts, so that what starts a child imports little."""

from __future__ import annotations

#: For how many shapes of products a child keeps kernels; oneDNN itself would keep 1,024.
MOST_KERNELS = 64
