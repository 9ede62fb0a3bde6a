"""What a data set of faces is: the Faces artifact, readers of public layouts, splits by content, decoded pixels.

>>> from ferry.faces import import_faces, open_faces
>>> report = import_faces("fer2013", "faces/fer2013", overlap="drop_from_train")  # doctest: +SKIP
>>> open_faces("faces/fer2013", "test").pixels(48).shape  # doctest: +SKIP
(3589, 1, 48, 48)

Names load on first use (see ``__init__.pyi``), so that who needs none of it loads neither pyarrow nor Pillow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
