"""Real-time fusion of unsynchronised infrared and visible video.

`fuse_pair(ir, vis)` fuses two pictures, `Pipeline.from_config(...)` two streams; `frame` says what comes out,
`config` what can be set, `errors` what is raised. `pipeline.Rigs` runs several pipelines side by side,
`sinks.subscriber.Subscriber` receives what another process publishes, `load_model` gives a bare network.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfuse.api import fuse_pair
    from streamfuse.nn.models import load_model
    from streamfuse.pipeline import Pipeline

__all__ = ["Pipeline", "__version__", "fuse_pair", "load_model"]
__version__ = "0.1.0"

_LAZY = {
    "Pipeline": "streamfuse.pipeline",
    "fuse_pair": "streamfuse.api",
    "load_model": "streamfuse.nn.models",
}


def __getattr__(name: str) -> Any:
    # Importing the package stays instant: torch and OpenCV load with the first thing that needs them.
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'streamfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
