"""Record, attribute, sweep; plan, shards, run directory."""
