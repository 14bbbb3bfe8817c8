"""A sweep: python jobs/sweep.py SPACE --storage s3://bucket/path [options of `serkd sweep`]."""

from serkd.cli import main

if __name__ == "__main__":
    main("sweep")
