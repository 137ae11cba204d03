"""The audit trail: every change with who, what, before and after; append-only."""
