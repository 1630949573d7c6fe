"""Values and their arithmetic: torch and numpy only."""
