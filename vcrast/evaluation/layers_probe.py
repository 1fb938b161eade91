"""EVALUATIONS: `layers_probe`, a learned mean of all layers, then a linear classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vcrast.config.metric import Metric
from vcrast.config.registry import EVALUATIONS
from vcrast.evaluation.attentive_probe import token_statistics
from vcrast.evaluation.base import ByClass, Evaluation, Features, probe_metrics, probe_values

log = logging.getLogger(__name__)

CHUNK = 256


@EVALUATIONS.register("layers_probe")
class LayersProbe(Evaluation):
    """Accuracy (mAP where clips have several labels) of a classifier of all frozen layers, and each layer's weight.

    The last layer serves what was pretrained, and an earlier one often the classes. A softmax over the layers (0: the
    embedded patches) mixes them with weights that are learnt with the classifier.

    Without prototypes it reads the mean over the tokens of each layer, (n, L, D), and the classifier is linear: with
    all weight on one layer it is `linear_probe` of that layer. With prototypes it reads the frames of each layer, its
    tokens averaged over frequency, and classifies the largest and the least cosine that a clip's frames have with each
    prototype. On means, cosines would add nothing: a linear classifier of them is one of the mean itself. The frames
    take n L t D numbers of 16 bits, 0.6 MB for a clip of 5 s and `model=base` (1.2 GB for ESC-50); all tokens would
    take eight times that. Of clips longer than the model's, their middle window is read then.

    Layers are standardised by the training clips, with prototypes each frame's vector is scaled to length 1 then, as in
    the source. Without the former, what all clips share hides what differs: on ESC-10, 256 prototypes had 75.8 % for
    80.3 % (fitted with Adam, one seed).

    Args:
        prototypes: K; 0 for none.
        steps: most L-BFGS iterations, each over all training clips.
        weight_decay: half of it times the classifier's squared weights is added to the mean loss.
        seed: of the first prototypes; without any, nothing is random.

    Source: a softmax over layers, Yang et al. 2021, arXiv:2105.01051 (SUPERB). The prototypes follow the convex gated
    probe of BAT, which mixes the tokens of all layers scaled to length 1, compares them with about 10,000 prototypes
    and classifies minimum and maximum over the tokens, and the class token, which is not read here.
    """

    needs = Features
    baseline = True
    metrics = {  # noqa: RUF012 - a class constant, as `Evaluation` declares it
        **probe_metrics("layers", "probe of all layers", short="layers"),
        "best_layer": Metric("Layer of the largest weight", "count"),
    }

    def __init__(self, *, prototypes: int, steps: int, weight_decay: float, seed: int) -> None:
        if prototypes < 0:
            raise ValueError(f"evaluation.layers_probe.prototypes={prototypes}: must not be negative; 0 is none")
        if steps < 1:
            raise ValueError(f"evaluation.layers_probe.steps={steps}: must be 1 or more")
        if weight_decay < 0:
            raise ValueError(f"evaluation.layers_probe.weight_decay={weight_decay}: must not be negative")
        self.prototypes, self.steps, self.weight_decay, self.seed = prototypes, steps, weight_decay, seed
        self.form = "frames" if prototypes else "layers"
        self.weights: list[float] = []

    def measure(self, given: Features) -> dict[str, float]:
        """See `Evaluation`."""
        train, test, multilabel = given
        probe = self.fit(train.embedding, train.label, multilabel=multilabel)
        with torch.no_grad():
            logits = torch.cat([probe(part) for part in test.embedding.split(CHUNK)])
        self.weights = probe.shares().tolist()
        shown = ", ".join(f"{number}: {weight:.2f}" for number, weight in enumerate(self.weights))
        log.info("layers_probe: weights of the layers %s", shown)
        best = max(range(len(self.weights)), key=self.weights.__getitem__)
        self.score = logits.float()
        return {**probe_values("layers", self.score, test.label, multilabel=multilabel), "best_layer": best}

    def by_class(self, given: Features, classes: Sequence[str]) -> ByClass:  # noqa: ARG002 - of layers, not of classes
        """The weight of every layer in the last `measure`."""
        return {"layer_weights": {str(number): weight for number, weight in enumerate(self.weights)}}

    def fit(self, layers: Tensor, label: Tensor, *, multilabel: bool) -> LayersClassifier:
        """Train the probe by L-BFGS on all clips, from equal weights of the layers and a classifier of zeros.

        In float64 where the problem is small, because the line search stalls on fp32 noise; with prototypes in fp32.

        Args:
            layers: (n, L, D), or (n, L, t, D) with prototypes.
            label: (n, C) multi-hot.
            multilabel: a sigmoid for each class instead of one softmax.
        """
        dtype = torch.float32 if self.prototypes else torch.float64
        statistics = [token_statistics(layer.reshape(len(layer), -1, layer.shape[-1])) for layer in layers.unbind(1)]
        mean, std = (torch.stack(part).to(dtype) for part in zip(*statistics, strict=True))
        draws = torch.Generator().manual_seed(self.seed)
        probe = LayersClassifier(mean, std, prototypes=self.prototypes, num_classes=label.shape[1], draws=draws)
        # Once, and where they came in 16 bits kept so: every step reads all of them.
        kept = layers.dtype if self.prototypes else dtype
        with torch.no_grad():
            parts = [probe.scaled(part).to(kept) for part in layers.split(CHUNK)]
        optimizer = torch.optim.LBFGS(
            probe.parameters(), max_iter=self.steps, line_search_fn="strong_wolfe", tolerance_grad=1e-7,
            tolerance_change=1e-12,
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = self.weight_decay / 2 * probe.weight.square().sum()
            total.backward()
            for part, own in zip(parts, label.split(CHUNK), strict=True):
                logits, target = probe.classified(part.to(dtype)), own.to(dtype)
                loss = (
                    F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
                    if multilabel
                    else F.cross_entropy(logits, target, reduction="sum")
                ) / len(layers)
                loss.backward()
                total = total.detach() + loss.detach()
            return total

        with torch.enable_grad():
            optimizer.step(closure)
        return probe.requires_grad_(False)


class LayersClassifier(nn.Module):
    """(B, L, D), or (B, L, t, D) with prototypes, -> (B, C) logits.

    Args:
        mean: (L, D) of the training clips, by which each layer is standardised.
        std: (L, D) likewise.
        prototypes: K; 0 for none.
        num_classes: C.
        draws: of the first prototypes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Tensor, std: Tensor, *, prototypes: int, num_classes: int, draws: torch.Generator | None = None
    ) -> None:
        super().__init__()
        num_layers, dim = mean.shape
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.mix = nn.Parameter(mean.new_zeros(num_layers))
        self.prototypes: nn.Parameter | None = None
        if prototypes:
            self.prototypes = nn.Parameter(mean.new_empty(prototypes, dim).normal_(generator=draws))
        self.weight = nn.Parameter(mean.new_zeros(num_classes, 2 * prototypes or dim))
        self.bias = nn.Parameter(mean.new_zeros(num_classes))

    def shares(self) -> Tensor:
        """(L,) weights of the layers, 1 in all."""
        return self.mix.softmax(dim=0)

    def forward(self, layers: Tensor) -> Tensor:
        """See the class."""
        return self.classified(self.scaled(layers))

    def scaled(self, layers: Tensor) -> Tensor:
        """The same shape, standardised, with prototypes of length 1: what nothing is learnt of."""
        mean, std = (self.mean, self.std) if layers.ndim == 3 else (self.mean.unsqueeze(1), self.std.unsqueeze(1))
        layers = (layers.to(mean) - mean) / std
        return layers if self.prototypes is None else F.normalize(layers, dim=-1)

    def classified(self, layers: Tensor) -> Tensor:
        """Scaled layers -> (B, C) logits."""
        mixed = torch.einsum("l,bl...->b...", self.shares(), layers)
        if self.prototypes is not None:
            # Times the root of D: cosines of unrelated vectors then vary by 1, as standardised features do.
            cosine = F.normalize(mixed, dim=-1) @ F.normalize(self.prototypes, dim=-1).T * mixed.shape[-1] ** 0.5
            mixed = torch.cat([cosine.amax(dim=1), cosine.amin(dim=1)], dim=1)
        return F.linear(mixed, self.weight, self.bias)
