"""serkd: distributed search for small models that recognise emotion in speech."""

__version__ = "0.1.0"
