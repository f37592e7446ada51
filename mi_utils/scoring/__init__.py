"""The full table of metrics for the reconstructions of any attack: `score`, and what it returns, `Scores`."""

from mi_utils.scoring.run import score
from mi_utils.scoring.writing import Scores

__all__ = ["Scores", "score"]
