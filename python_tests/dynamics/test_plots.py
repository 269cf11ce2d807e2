"""Pictures: what is drawn is what was recorded."""

import copy

import numpy as np
import pytest
import torch

from eft_ext.dynamics import SFT, Probe, ProbeSet, Recording, plots, track, verify
from eft_ext.dynamics.drawing import accumulated, panels, short

pytest.importorskip("pyarrow")


@pytest.fixture
def record(small_base, tmp_path):
    """record(folder, types, ...) trains by shrinking all weights."""

    def make(folder, types, steps=4, every=2, prompts="ab"):
        model, tokenizer = copy.deepcopy(small_base[0]), small_base[1]
        said = {name: f" {'Yes. ' * (i + 1)}" for i, name in enumerate(types)}
        probes = ProbeSet(tuple(Probe(f"Question: {q}\nAnswer:", said) for q in prompts))
        for _ in track(range(steps), model, probes, tokenizer, tmp_path / folder, every=every):
            with torch.no_grad():
                for p in model.parameters():
                    p *= 0.99
        return Recording(tmp_path / folder)

    return make


@pytest.fixture
def recording(record):
    return record("run", ["chosen", "other"])


def drawn(axes):
    """The lines of a panel by name: steps and means."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def expected(recording, response, statistic="log_prob_mean"):
    return np.stack([recording.steps, recording.curve(response, statistic).mean(1)], 1)


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


def test_many_types_have_a_panel_each(record):
    """With names that matplotlib would drop, or read as formulas."""
    names = ["chosen", "_hidden", "$x$", "a" * 60, "b"]
    figure = plots.curves(run := record("run", names))
    for axes, name in zip(figure.axes, names, strict=True):
        assert axes.title.get_text().strip() == (name if len(name) < 60 else "a" * 17 + "…" + "a" * 10)
        assert not axes.title.get_parse_math()
        np.testing.assert_allclose(axes.lines[0].get_xydata(), expected(run, name))
        (band,) = axes.collections
        assert band.get_paths()
    plots.influence(run).draw_without_rendering()


@pytest.mark.parametrize(("largest", "shared"), [(5.0, True), (6.0, False)])
def test_scales_of_their_own_are_said(largest, shared):
    figure, axes, found = panels(["a", "b", "c"], [1.0, 1.0, largest])
    assert found == shared
    axes[0].set_ylim(0, 9)
    assert (axes[1].get_ylim() == (0, 9)) == shared
    assert len(figure.axes) == 3


def test_unshared_scales_are_marked(record, monkeypatch):
    """Shrunk to one of two spans, the label says so."""
    run = record("run", list("abcde"))
    assert "own scale" not in plots.curves(run).get_supylabel()
    curve = run.curve
    monkeypatch.setattr(run, "curve", lambda name, *more: curve(name, *more) * (100 if name == "a" else 1))
    assert plots.curves(run).get_supylabel() == "log π per token, nats\n(each panel has its own scale)"


def test_several_recordings(record):
    """They have other types, steps and probes: the types that both have, each with a line per folder."""
    one, two = record("one", ["chosen", "x", "other"]), record("two", ["other", "chosen"], 3, 1, "abc")
    figure = plots.curves([one, two])
    assert [axes.get_title() for axes in figure.axes] == ["chosen", "other"]
    for axes in figure.axes:
        lines = drawn(axes)
        assert list(lines) == ["one", "two"]
        np.testing.assert_allclose(lines["one"], expected(one, axes.get_title()))
        np.testing.assert_allclose(lines["two"], expected(two, axes.get_title()))
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    top = plots.confidence([one, two], ["other"])
    np.testing.assert_allclose(drawn(top.axes[0])["two"], expected(two, "other", "argmax_log_prob_mean"))
    change = plots.curves([one, two], "log_prob", change=True).axes[0]
    assert [points[0, 1] for points in drawn(change).values()] == [0, 0]


def test_influence_of_several(record):
    one, two = record("one", ["chosen", "x"]), record("two", ["chosen"], 3, 1)
    first, second, _ = plots.influence([one, two]).axes
    assert [axes.get_title() for axes in (first, second)] == ["one", "two"]
    for axes, run in ((first, one), (second, two)):
        means = run.curve("chosen").mean(1)
        np.testing.assert_allclose(axes.images[0].get_array(), [means - means[0]])
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(step) for step in run.steps]
    assert first.images[0].get_clim() == second.images[0].get_clim()


def test_what_cannot_be_compared(record, tmp_path):
    one, two = record("one", ["chosen"]), record("two", ["other"])
    same = record("below/one", ["chosen"])
    message = "recording: expected a type of response that all have, got none: one has chosen; two has other"
    for draw in (plots.curves, plots.confidence, plots.influence):
        with pytest.raises(ValueError, match=message):
            draw([one, two])
        with pytest.raises(ValueError, match=r"recording: expected different ones, got .*one 2 times"):
            draw([one, Recording(tmp_path / "one")])
        with pytest.raises(ValueError, match="recording: expected at least one, got none"):
            draw([])
        with pytest.raises(ValueError, match="types: expected one of chosen, got 'other'"):
            draw([one, same], types=["other"])
    assert list(drawn(plots.curves([one, same]).axes[0])) == [str(tmp_path / "one"), str(tmp_path / "below/one")]


def test_names_that_matplotlib_would_leave_out():
    assert short(["_x", "a"]) == [" _x", "a"]


def test_many_records():
    """Their numbers do not fit into the cells; their steps are thinned; the colour bar is in nats."""
    steps, grid = np.arange(60), np.linspace(0, -90.0, 60)[None]
    axes, bar = accumulated({"": (steps, grid)}, ["chosen"]).axes
    assert not axes.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(step) for step in range(0, 60, 5)]
    values = [
        (float(label.get_text()), tick) for tick, label in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    ]
    assert all(value == pytest.approx(tick) for value, tick in values)
    assert {value for value, _ in values} >= {-90.0, 0.0, 90.0}
    norm = axes.images[0].norm
    assert norm(np.array([-90.0, -22.5, 0.0, 22.5])).tolist() == pytest.approx([0, 0.25, 0.5, 0.75])


def test_influence(recording):
    axes = plots.influence(recording).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert len(written) == 6
    change = recording.curve("other").mean(1) - recording.curve("other")[0].mean()
    assert written[-1] == f"{change[-1]:+.1f}"


def test_scatter(llama, responses):
    result = verify(llama, responses(3, 1), responses(2, 2), SFT(), (1e-3, 1e-4))
    left, right = plots.scatter(result).axes
    assert all("nats" in axes.get_xlabel() and "nats" in axes.get_ylabel() for axes in (left, right))
    dots = right.collections[0].get_offsets()
    np.testing.assert_allclose(dots, torch.stack([result.predicted[1], result.actual[1]], 1))


def test_saving(recording, tmp_path):
    figure = plots.curves(recording)
    for name, first in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plots.save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(first)
    with pytest.raises(ValueError, match=r"path: expected a name ending in .png, .svg, .pdf"):
        plots.save(figure, tmp_path / "a.txt")
