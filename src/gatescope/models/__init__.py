"""Loading, identity and sites."""
