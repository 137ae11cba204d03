"""What these tests share. Who may do what where, and that nobody learns of what they may not see: over SQLite and over
PostgreSQL.
"""

from __future__ import annotations

#: A revoked token fails everywhere within this.
SOON_S = 1.0
