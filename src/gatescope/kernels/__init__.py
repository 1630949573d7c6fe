"""The tensor functions that run where the activation is, eager and compiled."""
