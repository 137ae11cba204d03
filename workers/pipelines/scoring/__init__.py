"""Scoring a base or an adapter on rows."""
