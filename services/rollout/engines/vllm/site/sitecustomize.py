"""Read by every Python process that has this folder on PYTHONPATH: makes torchvision importable beside a CPU torch.

torchvision's wheel on PyPI is built for CUDA; beside a CPU torch its import fails at two operators, of which vLLM needs
no more than that they are declared. They are when torchvision is imported: a process that needs neither loads no torch.
"""

import importlib.abc
import importlib.metadata
import importlib.util
import sys


def needs_operators() -> bool:
    """Whether torch is a CPU build and torchvision is not."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision")):
        return False
    versions = [importlib.metadata.version(name) for name in ("torch", "torchvision")]
    return versions[0].endswith("+cpu") and not versions[1].endswith("+cpu")


class Declaring(importlib.abc.MetaPathFinder):
    """Finds no module; declares the operators before torchvision is looked for."""

    def __init__(self) -> None:
        self._is_asked = False
        self._library: object = None  # the operators live as long as it does

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name != "torchvision" or self._is_asked:
            return
        self._is_asked = True
        if needs_operators():
            from torch.library import Library

            self._library = library = Library("torchvision", "DEF")
            library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declaring())
