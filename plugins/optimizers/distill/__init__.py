"""Distillation: a smaller student imitates the published model."""
