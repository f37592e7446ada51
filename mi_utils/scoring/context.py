"""What every group of metrics is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mi_utils.metrics.ddcs import Scope
from mi_utils.models.perceptual import Perceptual
from mi_utils.scoring.align import Sets
from mi_utils.scoring.table import ClassRow, Row

Say = Callable[[str], None]


@dataclass(frozen=True)
class Context:
    """The aligned sets, and how they are compared.  `say` tells people which step has begun."""

    sets: Sets
    net: Perceptual
    device: torch.device
    scope: Scope
    say: Say

    @property
    def classes(self) -> list[int]:
        """Ids of the attacked classes."""
        return list(self.sets.classes)


@dataclass
class Part:
    """Rows of the table and of the table of classes."""

    rows: list[Row] = field(default_factory=list)
    classes: list[ClassRow] = field(default_factory=list)
