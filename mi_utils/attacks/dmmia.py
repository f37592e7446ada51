r"""DMMIA (Qi et al., ACM MM 2023, arXiv 2309.00013): styles move under two kinds of prototypes that learn on the way.

$$L=L_{id}+\lambda_1L_{imr}+\lambda_2L_{idr}+\lambda_3L_{spread},\qquad
  w=\bar w+\psi\,(F_\phi(z)-\bar w)$$

By default the mapping network's copy $\phi$ of every class is tuned (paper); `var="w"` moves styles as PPA (released
code).  Source: specification dmmia, 2.3.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from mi_utils.attacks import memory
from mi_utils.attacks.latent_search import Frames
from mi_utils.attacks.memory import Group, unit
from mi_utils.attacks.objective import LOSSES
from mi_utils.attacks.style_search import Nets, Pool, StyleSearch, cosine, drift, to_images
from mi_utils.errors import UserError
from mi_utils.models.stylegan2 import MappingNetwork, truncated
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output

Parameters = dict[str, Tensor]  # of K copies of the mapping network, (K, ...) each


LOGS = ("loss", "imr", "idr", "confidence", "cosine", "effective_positives", "filled", "drift")


@dataclass(frozen=True)
class State:
    """What a search changes, all in place, and the latents that it starts from."""

    z: Float[Tensor, "k n z"]
    moving: Parameters  # what Adam changes: mapping networks, or "styles" (K, n, d)
    adam: torch.optim.Adam
    w: Float[Tensor, "k n_w d"]  # prototypes of IMR, the first rho positive
    sgd: torch.optim.SGD
    m: Float[Tensor, "k c d"]  # memory of IDR
    filled: Bool[Tensor, "k c"]

    def checkpoint(self) -> dict[str, object]:
        """What changes, by name."""
        return self.moving | {"w": self.w, "m": self.m, "kappa": self.filled, "adam": self.adam, "sgd": self.sgd}


def mapped(mapping: MappingNetwork, phi: Parameters, z: Float[Tensor, "k n z"], psi: float) -> Float[Tensor, "k n d"]:
    r"""$\bar w+\psi(F_{\phi_k}(z)-\bar w)$ with a mapping network for every class."""
    each = torch.func.vmap(lambda own, part: torch.func.functional_call(mapping, own, (part,)))
    return truncated(each(phi, z), mapping.w_avg, psi)


def shuffled(count: int, batch: int, seed: int, classes: tuple[int, ...], epoch: int) -> list[Int[Tensor, "k b"]]:
    """An epoch's batches: positions of candidates, drawn for each class by a stream of its own."""
    order = [torch.randperm(count, generator=seeded("dmmia order", seed, y, epoch)) for y in classes]
    return list(torch.stack(order).split(batch, 1))


class DMMIA(StyleSearch):
    """Dynamic memory.  Defaults are the paper's where it says something, else ours (specification, named options).

    One Adam step of the mapping networks per batch, at `lr` over the number of batches, so that styles travel as far
    in an epoch as by PPA's direct step.  Not built: one network for all classes, a bank that is drawn anew.
    """

    var: Literal["mapping", "w"] = "mapping"
    loss: Literal["ce", "poincare", "logit"] = "ce"
    batch: Annotated[int, Field(ge=2)] = 20  # candidates of a class per step
    n_w: Annotated[int, Field(ge=2)] = 800  # prototypes of a class
    rho: Annotated[int, Field(ge=1)] = 400  # of them positive
    w_norm: bool = True  # rows of norm 1; off: the released code's N(0, 0.01²), free to grow
    tau: Annotated[float, Field(gt=0)] = 0.1
    tau_idr: Annotated[float, Field(gt=0)] = 0.1
    group: Group = "sum"
    lam1: Annotated[float, Field(ge=0)] = 1.0  # of L_imr
    lam2: Annotated[float, Field(ge=0)] = 1.0  # of L_idr
    lam3: Annotated[float, Field(ge=0)] = 0.0  # of the plain diversity term (a control)
    r: Annotated[float, Field(ge=0, le=1)] = 0.7  # momentum of the memory
    mem_key: Literal["predicted", "target"] = "predicted"
    mem_init: Literal["pool", "empty"] = "pool"
    lr_w: Annotated[float, Field(ge=0)] = 0.1
    momentum_w: Annotated[float, Field(ge=0, lt=1)] = 0.9
    repeats: Annotated[int, Field(ge=1)] = 1  # Adam steps per gradient
    fresh: Annotated[int, Field(ge=0)] = 0  # images per class of new latents by the tuned networks

    @model_validator(mode="after")
    def _options_fit(self) -> "DMMIA":
        if self.rho >= self.n_w:
            raise UserError(f"rho: expected fewer positive prototypes than n_w={self.n_w}, found {self.rho}")
        if self.fresh and self.var == "w":
            raise UserError("fresh: new latents need tuned mapping networks, found var='w'; leave it 0")
        return self

    def compute(self, job: Job) -> Output:
        """Epochs of batches; all classes move together, each with its own networks, prototypes and memory."""
        nets = self.nets(job.device)
        pool = self.scored(nets, job.device)
        places = self.chosen(pool, job.device)
        start = pool.w[places]
        s = self._begun(nets, pool, places)
        frames, prototypes = Frames(self.epochs, self.frames), Frames(self.epochs, self.frames)
        curves: dict[str, list[Tensor]] = {name: [] for name in LOGS}
        frames.keep(0, lambda: start), prototypes.keep(0, lambda: s.w)
        kept = {"frames": frames.kept, "prototypes": prototypes.kept}
        for epoch in job.steps(self.epochs, s.checkpoint(), kept, curves):
            found = self._epoch(nets, s, epoch)
            now = self._styles(nets, s.moving, s.z)
            found["drift"] = drift(now, start, pool.sigma, self.psi)
            for name, values in curves.items():
                values.append(found[name])
            frames.keep(epoch + 1, lambda now=now: now), prototypes.keep(epoch + 1, lambda: s.w)
        output = self.finished(job, nets, frames, curves)
        more = {"frames_prototypes": torch.stack(prototypes.kept), "memory": s.m}
        return Output(output.tensors | more | self._new(nets, s.moving, job.device), output.meta)

    # --- the state -----------------------------------------------------------------------------------------

    def _begun(self, nets: Nets, pool: Pool, places: Int[Tensor, "k n"]) -> State:
        """Copies of the mapping network, or the candidates' styles; prototypes; memory."""
        moving = self._moving(nets, pool.w[places])
        batches = -(-self.candidates // self.batch)
        lr, betas = (self.lr, (0.1, 0.1)) if self.var == "w" else (self.lr / batches, (0.0, 0.99))
        adam = torch.optim.Adam(moving.values(), lr, betas=betas)
        w, m, filled = self._prototypes(pool)
        sgd = torch.optim.SGD([w], self.lr_w, momentum=self.momentum_w)
        return State(pool.z[places], moving, adam, w, sgd, m, filled)

    def _moving(self, nets: Nets, start: Float[Tensor, "k n d"]) -> Parameters:
        if self.var == "w":
            return {"styles": start.clone()}
        k = len(self.classes)
        return {n: p.detach().expand(k, *p.shape).clone() for n, p in nets.g.mapping.named_parameters()}

    def _prototypes(self, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
        """W (K, N_w, d), M (K, C, d) and which of its rows are filled (K, C)."""
        outputs, d, device = pool.scores.shape[1], pool.features.shape[1], pool.z.device
        drawn = [
            memory.initial_prototypes((self.n_w, d), self.w_norm, seeded("dmmia prototypes", self.seed, y), device)
            for y in self.classes
        ]
        m = torch.zeros((1, outputs, d), device=device)
        filled = torch.zeros((1, outputs), dtype=torch.bool, device=device)
        if self.mem_init == "pool":
            m, filled = memory.remembered(m, filled, pool.features[None], pool.said[None], 0.0)
        return torch.stack(drawn), m.repeat(len(drawn), 1, 1), filled.repeat(len(drawn), 1)

    @torch.no_grad()
    def _styles(self, nets: Nets, moving: Parameters, z: Float[Tensor, "k n z"]) -> Float[Tensor, "k n d"]:
        """Styles of latents."""
        return moving["styles"].clone() if self.var == "w" else mapped(nets.g.mapping, moving, z, self.psi)

    # --- steps ---------------------------------------------------------------------------------------------

    def _epoch(self, nets: Nets, s: State, epoch: int) -> dict[str, Tensor]:
        """Every candidate once.  A mapping network takes a step per batch, a style one per epoch: its own batch's."""
        batches = shuffled(self.candidates, self.batch, self.seed, self.classes, epoch)
        logs: list[dict[str, Tensor]] = []
        for value in s.moving.values():
            value.grad = torch.zeros_like(value)
        for place, index in enumerate(batches):
            logs.append(self._batch(nets, s, index.to(s.z.device), epoch * len(batches) + place))
            if self.var == "mapping":
                self._step(s.adam)
        if self.var == "w":
            self._step(s.adam)
        return {name: torch.stack([log[name] for log in logs]).mean(0) for name in logs[0]}

    def _step(self, adam: torch.optim.Adam) -> None:
        for _ in range(self.repeats):
            adam.step()
        adam.zero_grad(set_to_none=False)

    def _batch(self, nets: Nets, s: State, index: Int[Tensor, "k b"], step: int) -> dict[str, Tensor]:
        """Gradients of L; then prototypes and memory learn from the same features."""
        found = [self._gradients(nets, s, index, group, step) for group in self.groups(index.shape[1])]
        e, said = (torch.cat([each[i] for each in found]) for i in (0, 1))
        self._learn(s, e, said)
        logs = {name: torch.cat([each[2][name] for each in found]).mean() for name in found[0][2]}
        shares = memory.effective_positives(memory.positives(e, s.w, self.rho, self.tau))
        logs |= {"cosine": cosine(e), "effective_positives": shares.mean()}
        return logs | {"filled": s.filled.sum(1).double().mean()}

    def _learn(self, s: State, e: Float[Tensor, "k b d"], said: Int[Tensor, "k b"]) -> None:
        """A step of W on the mean L_imr of each class; M moves towards the features of each predicted class."""
        s.w.grad = memory.imr_gradient(e, s.w, self.rho, self.tau, self.group)
        s.sgd.step()
        if self.w_norm:
            s.w.copy_(unit(s.w))
        keys = said if self.mem_key == "predicted" else self._targets(e.device)[:, None].expand_as(said)
        for old, new in zip((s.m, s.filled), memory.remembered(s.m, s.filled, e, keys, self.r), strict=True):
            old.copy_(new)

    def _gradients(
        self, nets: Nets, s: State, index: Int[Tensor, "k b"], group: slice, step: int
    ) -> tuple[Float[Tensor, "g b d"], Int[Tensor, "g b"], dict[str, Tensor]]:
        """Adds the gradients of a group of classes to those of `moving`; returns features, predictions, losses."""
        own = {name: value.detach()[group].requires_grad_() for name, value in s.moving.items()}
        rows = index[group]
        x = self.cropped(self.image(nets, self._asked(nets, s, own, rows, group).flatten(0, 1)), step)
        h = nets.f.features(x)
        o, e = nets.f.head(h).unflatten(0, rows.shape), unit(h).unflatten(0, rows.shape)
        y = self._targets(x.device)[group]
        terms = self._terms(o, e, y, s, group)
        total = terms["loss"] + self.lam1 * terms["imr"] + self.lam2 * terms["idr"]
        if self.lam3:
            total = total + self.lam3 * memory.spread_loss(e)
        # A style's own gradient does not depend on how many others are in its batch; a network's is a mean.
        reduced = total.sum() if self.var == "w" else total.mean(1).sum()
        for name, slope in zip(own, torch.autograd.grad(reduced, list(own.values())), strict=True):
            s.moving[name].grad[group] += slope
        p = o.detach().softmax(-1).gather(-1, y[:, None, None].expand(*rows.shape, 1)).squeeze(-1)
        logs = {name: value.detach() for name, value in terms.items()} | {"confidence": p}
        return e.detach(), o.argmax(-1), logs

    def _asked(self, nets: Nets, s: State, own: Parameters, rows: Int[Tensor, "g b"], group: slice) -> Tensor:
        """Styles (G, b, d) of a batch, with a graph to what is moved."""
        source = own["styles"] if self.var == "w" else s.z[group]
        picked = source.gather(1, rows[..., None].expand(-1, -1, source.shape[2]))
        return picked if self.var == "w" else mapped(nets.g.mapping, own, picked, self.psi)

    def _terms(
        self, o: Float[Tensor, "g b c"], e: Float[Tensor, "g b d"], y: Int[Tensor, " g"], s: State, group: slice
    ) -> dict[str, Float[Tensor, "g b"]]:
        """The three losses of each image; prototypes and memory are constants here."""
        labels = y[:, None].expand(o.shape[:2])
        return {
            "loss": LOSSES[self.loss](o.flatten(0, 1), labels.flatten()).view_as(labels),
            "imr": memory.imr_loss(e, s.w[group], self.rho, self.tau, self.group),
            "idr": memory.idr_loss(e, s.m[group], s.filled[group], y, self.tau_idr, self.group),
        }

    def _targets(self, device: torch.device) -> Int[Tensor, " k"]:
        return torch.tensor(self.classes, device=device)

    def _new(self, nets: Nets, moving: Parameters, device: torch.device) -> dict[str, Tensor]:
        """Images of new latents: whether the networks learnt the class or their bank."""
        if not self.fresh:
            return {}
        drawn = [
            torch.randn((self.fresh, nets.g.z_dim), generator=seeded("dmmia fresh", self.seed, y)) for y in self.classes
        ]
        w = self._styles(nets, moving, torch.stack(drawn).to(device)).transpose(0, 1).flatten(0, 1)
        images = to_images(lambda part: self.image(nets, part), w, self.chunk)
        return {"fresh_images": images, "fresh_labels": self._targets(device).repeat(self.fresh)}
