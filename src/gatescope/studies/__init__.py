"""Whole jobs: the VLM paper's, CULNIG's, modules."""
