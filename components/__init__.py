"""Ferry carries a facial-expression model to a new domain without source images and without target labels."""

__version__ = "0.1.0"
