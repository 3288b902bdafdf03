"""Which releases made a result."""

from __future__ import annotations

import importlib.metadata

import gapo


def versions() -> dict[str, str]:
    """Of gapo, torch and transformers."""
    import torch

    return {
        "gapo": gapo.__version__,
        "torch": str(torch.__version__),
        "transformers": importlib.metadata.version("transformers"),
    }
