"""Layers of a pre-trained backbone: python jobs/features.py RECIPE --out DIR --storage STORAGE."""

from serkd.cli import main

if __name__ == "__main__":
    main("features")
