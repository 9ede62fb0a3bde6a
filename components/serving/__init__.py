"""The HTTP server for a classifier: predictions, KServe's V1 protocol, metrics, and the registry's alias followed.

Names load on first use (see ``__init__.pyi``), so that a look at this package imports neither torch nor the server.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
