"""The project's attacks with a classifier from a file as their target and an image folder as what they learn from."""

from mi_utils.attacks.bmi import BMI
from mi_utils.attacks.gmi import GMI
from mi_utils.attacks.kedmi import KEDMI
from mi_utils.attacks.patch_mi import PatchMI
from mi_utils.audit.attack import PlugAndPlayOnFile
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.training.priors import TrainGMI, TrainKEDMI
from mi_utils.your_model.tree import ImageTree
from mi_utils.your_model.victim import Victim


class Pool(AuxiliaryPool):
    """Transformed images of a folder."""

    source: ImageTree


class GMIPrior(TrainGMI):
    """WGAN-GP on the images of a folder."""

    public: ImageTree


class KEDMIPrior(TrainKEDMI):
    """The inversion-specific GAN on the images of a folder and what the classifier says of them."""

    public: ImageTree
    target: Victim


class PixelsOnFile(BMI):
    """Gradient descent on pixels under random transformations."""

    target: Victim


class PatchMIOnFile(PatchMI):
    """Patch-MI on a folder of auxiliary images."""

    target: Victim
    auxiliary: Pool


class GMIOnFile(GMI):
    """GMI on a GAN of a folder of auxiliary images."""

    target: Victim
    prior: GMIPrior


class KEDMIOnFile(KEDMI):
    """KEDMI on a GAN of a folder of auxiliary images."""

    target: Victim
    prior: KEDMIPrior


class PPAOnFile(PlugAndPlayOnFile):
    """Plug & Play on a generator that the user gives."""

    target: Victim
