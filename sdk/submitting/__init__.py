"""Jobs as a caller sees them: their options, what is checked and sent with them, and how they are followed."""
