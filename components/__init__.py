"""Ferry carries a facial-expression model to a new domain without source images and without target labels.

Names load on first use (see ``__init__.pyi``), so that ``import ferry`` takes no time.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
