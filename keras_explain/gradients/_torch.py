"""Passes and gradients on PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

COMPILES = False


def compiled(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    variables: Sequence[Any],
    exchange: Callable[[], AbstractContextManager[None]],
) -> Callable[..., Any]:
    """The function itself, run eagerly and without a graph.

    Args:
        function: of tensors; it may read variables.
        arrays: examples of what it will be given.
        variables: those that it may read.
        exchange: makes the context in which its Python has to run.
    """

    def run(*args: Any) -> Any:
        with exchange(), torch.no_grad():
            return function(*args)

    return run


def gradients(function: Callable[[Any], Any], at: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Scores, what comes beside them, and the derivatives of each point's weighted scores.

    Args:
        function: at (n, ...) -> scores (n, t) and a tuple of tensors.
        at: where.
        weight: (n,) of the points.

    Returns:
        The scores, the rest and (t, n, ...) gradients; None where there are none.
    """
    at = at.detach().requires_grad_()
    with torch.enable_grad():
        scores, rest = function(at)
        # The sum over points has at each point the gradient of that point's own score.
        sums = (weight[:, None] * scores).sum(0).unbind()
    detached = scores.detach(), tuple(tensor.detach() for tensor in rest)
    if not scores.requires_grad:
        return *detached, None
    # Asked for by name, no gradient is added to that of a parameter.
    # The graph is freed by its last use, whoever still holds it.
    found = [
        torch.autograd.grad(total, at, retain_graph=k + 1 < len(sums), allow_unused=True)[0]
        for k, total in enumerate(sums)
    ]
    return *detached, None if any(gradient is None for gradient in found) else torch.stack(found)


def padded(n: int, most: int) -> int:
    """Eager passes take any number of points."""
    return n


def memory() -> float | None:
    """Bytes of the current CUDA device; None where there is none."""
    return float(torch.cuda.get_device_properties().total_memory) if torch.cuda.is_available() else None


def is_out_of_memory(error: Exception) -> bool:
    """Whether a smaller chunk may help."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def is_first_process(model: Any) -> bool:
    """Whether this process writes what is kept of a training; of several in a process group the one of rank 0 does."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Put back the global generators, which data loaders draw from, and the train or eval mode of every module."""
    state = torch.get_rng_state()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    # Keras' layers are modules, but only they themselves know the modules that they wrap.
    modules = {module for layer in model._flatten_layers() for module in layer.modules()}
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        torch.set_rng_state(state)
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
        for module, mode in modes:
            module.training = mode
