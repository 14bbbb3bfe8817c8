"""Code that leaves with an exported teacher and runs without serkd."""
