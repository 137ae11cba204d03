"""What a training's own numbers say should be done otherwise: rules over its points and its looks at held-out rows."""
