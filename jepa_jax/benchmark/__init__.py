"""Timings, side by side with peers that do the same work on the same machine."""
