"""Studies: what a choice in a recipe does, one factor at a time, several seeds if wanted."""
