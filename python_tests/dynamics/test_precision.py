import torch

from eft_ext.dynamics.precision import KeepDouble


def test_double_stays_and_narrow_tensors_stay_narrow():
    wide, narrow = torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2)
    with KeepDouble():
        assert wide.float().dtype == wide.to(torch.bfloat16).dtype == torch.float64
        assert torch.softmax(wide, -1, dtype=torch.float32).dtype == torch.float64
        assert narrow.float().dtype == (narrow @ narrow).dtype == torch.float32
    assert wide.float().dtype == torch.float32


def test_products_of_double_and_narrower_are_double():
    wide, narrow = torch.full((2, 2), 1 / 3, dtype=torch.float64), torch.full((2, 2), 3.0)
    with KeepDouble():
        for product in (wide @ narrow, narrow @ wide, torch.matmul(wide, narrow)):
            assert torch.equal(product, torch.full((2, 2), 2.0, dtype=torch.float64))
