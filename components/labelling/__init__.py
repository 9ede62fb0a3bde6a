"""Pseudo-labels for target faces from the outputs of a teacher: clusters, purity, class-wise quotas.

Names load on first use (see ``__init__.pyi``), so that a look at this package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
