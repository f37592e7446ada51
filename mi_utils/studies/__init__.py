"""One module per paper: `plan(profile, **overrides)` says what is run; PAPERS finds the module by name."""

from types import ModuleType

from mi_utils.studies import ddcs_ngd, dmmia, logit_augmentation, patch_mi

PAPERS: dict[str, ModuleType] = {
    "patch_mi": patch_mi,
    "logit_augmentation": logit_augmentation,
    "dmmia": dmmia,
    "ddcs_ngd": ddcs_ngd,
}
