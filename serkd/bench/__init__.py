"""Measurements against what people run otherwise: ``python -m serkd.bench``."""
