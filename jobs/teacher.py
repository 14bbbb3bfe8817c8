"""A teacher and all that it needs: python jobs/teacher.py RECIPE --fold all --storage STORAGE."""

from serkd.cli import main

if __name__ == "__main__":
    main("teacher")
