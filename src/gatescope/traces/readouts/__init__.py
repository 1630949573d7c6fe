"""How answers are read."""
