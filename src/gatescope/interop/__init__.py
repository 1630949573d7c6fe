"""Other people's tools: TransformerLens, lm-eval, published files."""
