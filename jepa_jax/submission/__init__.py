"""Runs launch/train.py elsewhere: on Cloud TPU, on GKE, under SLURM."""
