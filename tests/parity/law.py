"""The law of parity: two computations of one function give the same output, and every parameter the same gradient."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
"""Largest error of a tensor, relative to its largest entry. Models compute in fp64, but norms and rotations in fp32."""


def get_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def measure_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest entry of ``theirs``."""
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


def get_gradients(output: Tensor, parameters: Mapping[str, Tensor], loss: Tensor | float = 0.0) -> dict[str, Tensor]:
    """Gradients of one fixed random weighting of ``output``, and of ``loss``."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
    found = torch.autograd.grad((output * weights).sum() + loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, found, strict=True))


def assert_same_function(
    ours: Tensor, theirs: Tensor, parameters: Mapping[str, Tensor], loss: Tensor | float = 0.0
) -> None:
    """Check the law.

    Args:
        ours: output of our model.
        theirs: output of the formula, which reads the same parameters.
        parameters: what both must have the same gradient for.
        loss: of the formula: a loss beside its output, which our model adds inside.
    """
    assert measure_error(ours, theirs) <= TOLERANCE
    expected = get_gradients(theirs, parameters, loss)
    for name, gradient in get_gradients(ours, parameters).items():
        assert expected[name].any(), name
        assert measure_error(gradient, expected[name]) <= TOLERANCE, name
