"""Compiling a recipe's step ahead of time: what it needs and how long it would take."""
