"""Removal: retention rules, and the collection of what nothing names any more. Only this room removes bytes."""
