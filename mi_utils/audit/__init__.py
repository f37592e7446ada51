"""Which private images are exposed most: `vulnerable`, for the owner of the data, and what it returns, `Audit`."""

from mi_utils.audit.run import vulnerable
from mi_utils.audit.writing import Audit

__all__ = ["Audit", "vulnerable"]
