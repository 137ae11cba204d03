"""What views share: strict JSON, paging, how errors are answered."""
