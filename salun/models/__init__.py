"""Architectures, checkpoints, layers and features."""
