"""A prior that the target itself carries: the activation statistics of its batch-normalisation layers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def channel_distance(mean: Float[Tensor, " c"], var: Float[Tensor, " c"], norm: nn.BatchNorm2d) -> Float[Tensor, ""]:
    r"""$\frac1C\sum_c (\mu_c-\hat\mu_c)^2/\hat\sigma_c^2 + (\log\sigma_c^2-\log\hat\sigma_c^2)^2$.

    $\hat\mu,\hat\sigma^2$ are the running statistics of the private training images, which every white-box
    attacker holds.  Zero exactly when they agree; free of the scale of the layer.
    Ours, after the idea of DeepInversion (Yin et al., arXiv 1912.08795), which takes unscaled norms.
    """
    expected = norm.running_var + norm.eps
    shift = (mean - norm.running_mean).square() / expected
    return (shift + ((var + norm.eps).log() - expected.log()).square()).mean()


class BatchStatistics:
    """Collects `channel_distance` over all batch-norm layers of a frozen target during its next pass.

    with BatchStatistics(target) as statistics:
        target(x)
        loss = statistics.loss()          # scalar: mean over layers, of the batch since the last call
    """

    def __init__(self, target: nn.Module):
        self._norms = [m for m in target.modules() if isinstance(m, nn.BatchNorm2d)]
        self._found: list[Tensor] = []

    def __enter__(self) -> "BatchStatistics":
        self._hooks = [m.register_forward_pre_hook(self._collect) for m in self._norms]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _collect(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(inputs[0], (0, 2, 3))
        self._found.append(channel_distance(mean, var, norm))

    def loss(self) -> Float[Tensor, ""]:
        """Mean over the layers passed since the last call."""
        found, self._found = self._found, []
        return torch.stack(found).mean()
