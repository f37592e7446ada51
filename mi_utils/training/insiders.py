"""A stronger attacker, who has other images of some of the private people: who is in the auxiliary set matters.

Source: specification ddcs_ngd, variant B and claim C14.  Every other study keeps private people out of public images.
"""

from mi_utils.data import AnySource
from mi_utils.errors import UserError
from mi_utils.stage import Job, Output
from mi_utils.training.transfer import TransferStyleGAN2


class InsiderStyleGAN2(TransferStyleGAN2):
    """A `TransferStyleGAN2` whose auxiliary images may show private people, and are none of the target's own images."""

    def learn(self, job: Job) -> Output:
        """Train, once no auxiliary image is one that the target learnt from."""
        private, public = (source.load().images for source in (self.target.train, self.public))
        if private.shape[1:] != public.shape[1:]:
            raise UserError(f"public: expected images {tuple(private.shape[1:])} as the target takes, found "
                            f"{tuple(public.shape[1:])}; set `size` and `channels`")  # fmt: skip
        known = {row.tobytes() for row in private.flatten(1).numpy()}
        if shared := sum(row.tobytes() in known for row in public.flatten(1).numpy()):
            raise UserError(f"public: expected other images of the private people, found {shared} that the target "
                            "learnt from; take another split or other files")  # fmt: skip
        self._check_basis()
        return super(TransferStyleGAN2, self).learn(job)

    def sources(self) -> tuple[AnySource, ...]:
        """Of the start alone: a search refuses private people in these, and by assumption they are in the others."""
        return self.start.sources()
