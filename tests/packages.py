"""Nets of other packages, against which ours are checked and timed."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import nn


@contextmanager
def _unused_imports() -> Iterator[None]:
    """Stands in for what stlpips-pytorch imports for printing and debugging alone, where it is not loaded yet."""
    stand_ins = {"torchsummary": "summary", "IPython": "embed"}
    added = [name for name in stand_ins if name not in sys.modules]
    for name in added:
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], stand_ins[name], None)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def st_lpips(net: str) -> nn.Module:
    """stlpips-pytorch's own two-image distance net, "alex" or "vgg", frozen, in eval mode, on the CPU."""
    importlib.import_module("torchvision")  # first: what it imports must not meet the stand-ins
    with _unused_imports():
        package = importlib.import_module("stlpips_pytorch.stlpips")
    return package.LPIPS(net=net, variant="shift_tolerant", verbose=False).eval().requires_grad_(False)
