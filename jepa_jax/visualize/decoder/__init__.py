"""Sketches: what the predictor's word on a block may look like, drawn by a small decoder."""
