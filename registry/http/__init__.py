"""What views share: strict JSON, paging, idempotency, how errors are answered."""
