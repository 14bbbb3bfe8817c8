"""An ablation: python jobs/ablation.py FILE --storage s3://bucket/path [see `serkd ablate`]."""

from serkd.cli import main

if __name__ == "__main__":
    main("ablate")
