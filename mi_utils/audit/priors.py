"""Generators by name: those that ship with the project, or a file of the user's."""

from pathlib import Path

from mi_utils import bombs
from mi_utils.audit.request import Request
from mi_utils.data.disjoint import check_disjoint
from mi_utils.errors import UserError, understood
from mi_utils.models import stylegan2_files
from mi_utils.scoring import inputs
from mi_utils.studies.dmmia.settings import faces
from mi_utils.training.style_priors import FileStyleGAN2, StylePrior


def shipped() -> dict[str, StylePrior]:
    """Name -> generator of procedural faces."""
    study = faces()
    return {"faces-32": study.prior, "faces-32-shifted": study.shifted, "faces-64": study.further}


def generator_of(request: Request) -> StylePrior:
    """The generator that is named; UserError where there is none, or where private images are among its own."""
    known, given = shipped(), str(request.prior)
    if given in known:
        prior = known[given]
    elif not Path(given).expanduser().is_file():
        raise UserError(
            f"prior: expected {', '.join(known)}, or a .pkl, .pt or .safetensors file of a StyleGAN2 generator, found "
            f"no {given}; check the path"
        )
    else:
        path = Path(given).expanduser().absolute()
        bombs.check_weights(path)
        with understood(path, "a StyleGAN2 generator"):
            prior = FileStyleGAN2(path=path, size=stylegan2_files.read(path).size)
    if str(request.private).lstrip().startswith("{"):
        for public in prior.sources():
            check_disjoint(inputs.source(str(request.private), "private"), public, "prior")
    return prior
