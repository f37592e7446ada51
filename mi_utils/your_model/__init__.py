"""What your own classifier gives away: `audited`, from a CONFIG.yaml to a report, and its parts for a notebook."""

from mi_utils.your_model.config import read
from mi_utils.your_model.run import audited

__all__ = ["audited", "read"]
