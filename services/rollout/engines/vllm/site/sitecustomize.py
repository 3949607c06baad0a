"""Read by every Python process that has this folder on PYTHONPATH: makes torchvision importable beside a CPU torch.

torchvision's wheel on PyPI is built for CUDA; beside a CPU torch its import fails at two operators, of which vLLM needs
no more than that they are declared.
"""

import importlib.metadata
import importlib.util


def needs_operators() -> bool:
    """Whether torch is a CPU build and torchvision is not."""
    if not (importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision")):
        return False
    versions = [importlib.metadata.version(name) for name in ("torch", "torchvision")]
    return versions[0].endswith("+cpu") and not versions[1].endswith("+cpu")


if needs_operators():
    from torch.library import Library

    library = Library("torchvision", "DEF")  # the operators live as long as it does
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
