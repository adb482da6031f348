"""A run: its set-up, its loop, and what it leaves in its folder."""
