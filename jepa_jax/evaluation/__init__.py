"""What frozen features are good for: probes that score them against labels."""
