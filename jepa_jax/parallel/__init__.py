"""Meshes of devices, and which part of what lies on which."""
