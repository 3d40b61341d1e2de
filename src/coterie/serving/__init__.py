"""A small server: images in over HTTP, probabilities of classes out. What it needs is the extra ``serve``.

An exported ONNX file is served without torch. :func:`create_app` makes the application, for a server of one's own.
"""

from typing import TYPE_CHECKING

from coterie.lazy import lazy_names

if TYPE_CHECKING:
    from coterie.serving.app import create_app
    from coterie.serving.networks import Served, open_served
    from coterie.serving.options import ServingOptions

__all__ = ["Served", "ServingOptions", "create_app", "open_served"]

# FastAPI belongs to an extra, and help must not wait for it.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Served": "coterie.serving.networks",
        "ServingOptions": "coterie.serving.options",
        "create_app": "coterie.serving.app",
        "open_served": "coterie.serving.networks",
    },
)
