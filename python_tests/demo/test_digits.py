"""The MNIST-like toy: digits that can be told apart, and influences that are what a step does."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from eft_ext.demo.dynamics.digits import SIDE, class_influence, classifier, draw_digits
from eft_ext.dynamics import drawing


@pytest.fixture(scope="module")
def toy():
    images, labels = draw_digits(400)
    return classifier(images, labels, steps=12), images, labels


@pytest.mark.slow
def test_the_digits(toy):
    model, images, _ = toy
    assert images.shape == (400, SIDE * SIDE)
    assert (images >= 0).all()
    assert (images <= 1).all()
    assert torch.equal(draw_digits(20)[0], draw_digits(20)[0])
    assert not torch.equal(draw_digits(20)[0], draw_digits(20, seed=1)[0])
    others, truth = draw_digits(200, seed=1)
    assert (model(others.double()).argmax(-1) == truth).double().mean() > 0.75


@pytest.mark.slow
def test_influence_is_what_a_step_does(toy):
    model, images, labels = toy
    grid = class_influence(model, images, labels, lr=1e-5)
    assert grid.shape == (10, 10)
    for trained in (4, 7):
        mine = labels == trained
        model.zero_grad()
        cross_entropy(model(images[mine].double()), labels[mine]).backward()
        moved = {name: p.detach() - 1e-5 * p.grad for name, p in model.named_parameters()}
        after = torch.func.functional_call(model, moved, (images.double(),)).softmax(-1)
        change = (after - model(images.double()).softmax(-1))[:, trained].detach()
        actual = [float(change[labels == o].mean()) for o in range(10)]
        np.testing.assert_allclose(grid[trained], actual, rtol=1e-3, atol=1e-9)


def test_alike_digits_pull_each_other(toy):
    """Every class moves its own images most, and of the others those that look like it."""
    grid = class_influence(*toy)
    assert (grid.argmax(1) == np.arange(10)).all()
    others = grid - np.diag(np.diag(grid))
    for trained, alike in ((2, 7), (7, 2), (5, 3), (6, 8), (9, 0)):
        assert others[trained].argmax() == alike
    axes, bar = drawing.classes(grid, [str(i) for i in range(10)], "digits", "change").axes
    assert bar.get_ylabel() == "change"
    np.testing.assert_array_equal(axes.images[0].get_array(), grid)
