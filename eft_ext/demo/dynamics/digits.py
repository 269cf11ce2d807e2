"""An MNIST-like toy: drawn digits, a small classifier, and what training on one class does to the others."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eft_ext.dynamics.decompose import apply_a
from eft_ext.dynamics.forward import jvp, trainable, vjp
from eft_ext.dynamics.losses import residuals

SIDE, OVERSAMPLE = 16, 3
_FONTS = [
    FontProperties(family=family, weight=weight, style=style)
    for family in ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
    for weight in ("normal", "bold")
    for style in ("normal", "italic")
]


def draw_digits(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images fp32 [count, SIDE²] in [0, 1], and their labels int64 [count], the ten digits in turn.

    Each is a digit of one of twelve fonts, turned up to 15°, slanted, stretched and shifted. The same seed draws the
    same.
    """
    rng = np.random.default_rng(seed)
    images = np.stack([_draw(i % 10, rng) for i in range(count)])
    return torch.from_numpy(images).float(), torch.arange(count) % 10


def _draw(digit: int, rng: np.random.Generator) -> np.ndarray:
    outline = TextPath((0, 0), str(digit), size=1, prop=_FONTS[rng.integers(len(_FONTS))])
    box = outline.get_extents()
    centred = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(0.72 / box.height)
    bent = centred.scale(rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.1)).skew(rng.uniform(-0.2, 0.2), 0)
    placed = bent.rotate_deg(rng.uniform(-15, 15)).translate(*rng.uniform(-0.06, 0.06, 2))
    path = outline.transformed(placed)
    line = (np.arange(SIDE * OVERSAMPLE) + 0.5) / (SIDE * OVERSAMPLE) - 0.5
    grid = np.stack(np.meshgrid(line, line[::-1]), -1).reshape(-1, 2)
    # A point is ink if an odd number of the outlines is around it: the hole of a 0 is around none of it.
    rings = [Outline(polygon).contains_points(grid) for polygon in path.to_polygons()]
    inside = np.logical_xor.reduce(rings).reshape(SIDE, OVERSAMPLE, SIDE, OVERSAMPLE)
    return inside.mean((1, 3)).ravel()


def classifier(images: Tensor, labels: Tensor, steps: int = 12, seed: int = 0) -> nn.Module:
    """A network of one hidden layer, in fp64, trained by full-batch gradient descent."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(SIDE * SIDE, 48), nn.Tanh(), nn.Linear(48, 10)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(steps):
        cross_entropy(model(images.double()), labels).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model


def class_influence(model: nn.Module, images: Tensor, labels: Tensor, lr: float = 0.01) -> np.ndarray:
    """[trained, observed]: the predicted change of π(trained class) on images of the observed class.

    For one step of size `lr` on the mean loss of the trained class's images: −lr·π·A·K·G, by one backward pass and one
    Jacobian-vector product for each class.
    """
    parameters = trainable(model)
    images = images.double()

    def logits(of: Tensor, p: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, p, (of,))

    grid = np.empty((10, 10))
    for u in range(10):
        mine = labels == u
        g_of = partial(_mean_residuals, targets=labels[mine])
        _, along = vjp(partial(logits, images[mine]), parameters, g_of)
        z, kg = jvp(partial(logits, images), parameters, along)
        pi = z.softmax(-1)
        change = (-lr * pi * apply_a(pi, kg))[:, u]
        grid[u] = [float(change[labels == o].mean()) for o in range(10)]
    return grid


def _mean_residuals(logits: Tensor, targets: Tensor) -> Tensor:
    return residuals(logits, targets) / len(targets)
