"""From images on disk to batches of uint8 pixels, the same ones for a seed and a step."""
