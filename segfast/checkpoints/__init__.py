"""Weights from files and by name, of ours, the original code, MMSegmentation and timm."""
