"""What the registry does by itself: it scores new versions, and moves aliases to those for which all holds."""
