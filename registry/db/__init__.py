"""The database: engine, transactions, the clock, and the schema's version."""
