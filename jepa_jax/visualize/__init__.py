"""Pictures of a run: loss curves, masks and features, each saved as a PNG."""
