"""The sealed test split, once: python jobs/test.py s3://bucket/path/sweeps/NAME."""

from serkd.cli import main

if __name__ == "__main__":
    main("test")
