"""Model-inversion attacks, replicated and measured.  See README.md for the map."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def load_reconstructions(
    paper: str, attack: str, *, profile: str = "laptop", seed: int = 0, setting: str | None = None
) -> tuple["Tensor", "Tensor"]:
    """Stored reconstructions of one row of a paper's tables: images uint8 (N, C, S, S) and labels (N,).

    `setting` None takes the first setting that has the attack (the main table's).  UserError for an unknown
    name, or where the row has not been computed on this machine.
    """
    # Imported here, so that `import mi_utils` stays instant.
    from mi_utils.errors import UserError
    from mi_utils.studies import PAPERS
    from mi_utils.studies.plan import suggestion

    if paper not in PAPERS:
        raise UserError(f"paper: {suggestion(paper, PAPERS)}")
    return PAPERS[paper].plan(profile).reconstructions(attack, setting, seed)
