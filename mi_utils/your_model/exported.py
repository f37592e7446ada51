"""A classifier as an exported program (torch.export, .pt2): taken where the user vouches for its source, else refused.

`torch.export.load` is not safe: where `weights_only` refuses a part of the file it reads that part again without
restriction, so that a crafted file runs code (a test shows it).  Hence the field `trusted`.
"""

import zipfile
from typing import Any

import torch
from jaxtyping import Float
from pydantic import field_validator
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from mi_utils.errors import UserError
from mi_utils.models.external import External, ExternalClassifier

UNBOUNDED = 2**31  # more images than anybody gives at a time


class Program(nn.Module):
    """The graph of an exported program, which has no modes: it stays what it was exported as.

    most: images that it takes at a time, as it was exported for; more are given to it in parts.
    """

    def __init__(self, graph: nn.Module, most: int) -> None:
        super().__init__()
        self.graph, self.most = graph, most

    def train(self, mode: bool = True) -> "Program":
        """Only the flag; the graph refuses a change of mode."""
        self.training = mode
        return self

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
        return self.graph(x) if len(x) <= self.most else torch.cat([self.graph(part) for part in x.split(self.most)])


class ExportedClassifier(ExternalClassifier):
    """The recipe of a classifier in one file that holds network and weights.

    `weights` is the .pt2 file, exported in eval mode with a dynamic batch dimension; gradients flow through it to the
    images.  `trusted`: the user knows who made the file, since reading it can run code.
    """

    arch: str = "exported program"
    trusted: bool = False

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        return arch

    def load(self, device: str | torch.device = "cpu") -> External:
        """The classifier, frozen; UserError where it is not trusted, cannot be read or is no such classifier."""
        if not self.trusted:
            raise UserError(
                f"model.trusted: {self.weights.name} is an exported program, and reading one can run code that is "
                "hidden in it; set trusted: true if you know who made the file, or give arch and weights"
            )
        external = External(self._program(device), self).eval().requires_grad_(False).to(device)
        self._check_program(external, device)
        return external

    def _program(self, device: str | torch.device) -> Program:
        """The program on `device`."""
        if not zipfile.is_zipfile(self.weights):
            raise UserError(f"{self.weights}: expected a file of torch.export.save, found another; export it again")
        try:
            program = torch.export.load(self.weights)
            program = move_to_device_pass(program, str(device))
        except Exception as problem:  # whatever the file makes the library raise
            said = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise UserError(f"{self.weights}: the exported program cannot be read ({said}); export it again") from None
        return Program(program.module(), min(map(_upper, program.range_constraints.values()), default=UNBOUNDED))

    def _check_program(self, external: External, device: str | torch.device) -> None:
        """UserError unless it gives one row of logits an image, the same in any batch, with a gradient."""
        x = torch.linspace(-1, 1, 3 * self.channels * self.size**2, device=device).view(3, self.channels, self.size, -1)
        x = x.requires_grad_()
        try:
            whole, alone = external(x), external(x[:1])
        except (RuntimeError, ValueError, AssertionError, TypeError) as problem:
            said = (str(problem).splitlines() or [type(problem).__name__])[0]
            raise UserError(
                f"{self.weights.name}: expected a program for batches of any number of {self.channels}×{self.size}×"
                f"{self.size} images, but it refuses 1 or 3 ({said}); export it with a dynamic batch dimension"
            ) from None
        if not isinstance(whole, Tensor) or whole.shape != (3, self.outputs):
            found = f"shape {tuple(whole.shape)}" if isinstance(whole, Tensor) else type(whole).__name__
            raise UserError(
                f"classes: {self.weights.name} should give (3, {self.outputs}) logits for 3 images, found {found}; "
                "give as many classes"
            )
        if not torch.allclose(whole[:1], alone, rtol=1e-3, atol=1e-3):
            raise UserError(
                f"{self.weights.name}: expected the same logits for an image alone and in a batch, found others; "
                "export it in eval mode"
            )
        if not whole.requires_grad:
            raise UserError(
                f"{self.weights.name}: expected gradients with respect to the images, found none (exported under "
                "no_grad or quantised); export the float network"
            )


def _upper(constraint: Any) -> int:
    """The largest size that a dynamic dimension was exported for."""
    return int(constraint.upper) if constraint.upper <= UNBOUNDED else UNBOUNDED
