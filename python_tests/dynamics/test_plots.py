"""Pictures: what is drawn is what was recorded."""

import numpy as np
import pytest
import torch

from eft_ext.dynamics import SFT, Probe, ProbeSet, Recording, plots, track, verify

pytest.importorskip("pyarrow")


@pytest.fixture
def recording(small_base, tmp_path):
    model, tokenizer = small_base
    probes = ProbeSet(tuple(Probe(f"Question: {q}\nAnswer:", {"chosen": " Yes.", "other": " No."}) for q in "ab"))
    for _ in track(range(4), model, probes, tokenizer, tmp_path / "run", every=2):
        with torch.no_grad():
            for p in model.parameters():
                p *= 0.99
    return Recording(tmp_path / "run")


def test_curves(recording):
    axes = plots.curves(recording, "log_prob").axes[0]
    assert [line.get_label() for line in axes.lines] == ["chosen", "other"]
    np.testing.assert_allclose(axes.lines[1].get_ydata(), recording.curve("other").mean(1))
    change = plots.curves(recording, "log_prob", ["other"], change=True).axes[0]
    assert len(change.lines) == 1
    assert change.lines[0].get_ydata()[0] == 0
    top = plots.confidence(recording).axes[0]
    np.testing.assert_allclose(top.lines[0].get_ydata(), recording.curve("chosen", "argmax_log_prob_mean").mean(1))
    with pytest.raises(ValueError, match="types: expected one of chosen, other"):
        plots.curves(recording, types=["x"])


def test_influence(recording):
    axes = plots.influence(recording).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert len(written) == 6
    change = recording.curve("other").mean(1) - recording.curve("other")[0].mean()
    assert written[-1] == f"{change[-1]:+.1f}"


def test_scatter(llama, responses):
    result = verify(llama, responses(3, 1), responses(2, 2), SFT(), (1e-3, 1e-4))
    panels = plots.scatter(result).axes
    assert len(panels) == 2
    drawn = panels[1].collections[0].get_offsets()
    np.testing.assert_allclose(drawn, torch.stack([result.predicted[1], result.actual[1]], 1))


def test_saving(recording, tmp_path):
    figure = plots.curves(recording)
    for name, first in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plots.save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(first)
    with pytest.raises(ValueError, match=r"path: expected a name ending in .png, .svg, .pdf"):
        plots.save(figure, tmp_path / "a.txt")
