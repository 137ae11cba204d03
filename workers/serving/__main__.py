"""`python -P -m workers.serving`, with its configuration on standard input."""

from __future__ import annotations

import sys

from workers.serving.program import main

if __name__ == "__main__":
    sys.exit(main())
