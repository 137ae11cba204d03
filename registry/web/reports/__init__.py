"""Reports to send: one document about an adapter, versions, a sweep or a decision, which needs nothing from elsewhere."""
