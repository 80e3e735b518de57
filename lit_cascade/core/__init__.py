"""Pure mathematics of a cascade: torch and the standard library only."""
