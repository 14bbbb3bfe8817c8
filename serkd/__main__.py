"""``python -m serkd``."""

from serkd.cli import main

if __name__ == "__main__":
    main()
