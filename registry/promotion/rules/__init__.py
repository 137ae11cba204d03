"""The kinds of rules; each file reads what its rules are judged by, and judges them."""
