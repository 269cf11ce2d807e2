"""Pictures of runs that diverged, and of many or long names: all that is written can be read."""

import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from eft_ext.dynamics import Recording, plots
from eft_ext.dynamics.drawing import short

pytest.importorskip("pyarrow")

ENDS = [f"same_beginning_of_everything_{i}_and_the_same_endin_of_it_all" for i in range(3)]
LONG = [f"chosen_response_variant_{c * 3}_{i}_of_the_long_names" for i, c in enumerate("abcdefghijklm")]


class Known(Recording):
    """One with the given curves, [4] by type, the same for each of 3 probes."""

    def __init__(self, path, curves):
        self.path, self.curves = path, curves
        self.probes = SimpleNamespace(types=tuple(curves))
        self.steps = np.arange(4)

    def curve(self, response, statistic="log_prob"):
        return np.repeat(np.asarray(self.curves[response], float)[:, None], 3, axis=1)


@pytest.fixture
def run(tmp_path):
    return lambda folder="run", **curves: Known(tmp_path / folder, curves or {"a": range(4)})


def boxes(figure):
    """The boxes of everything that is written, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [text for each in figure.legends for text in each.get_texts()]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [text for text in (figure._supxlabel, figure._supylabel) if text is not None]
    return {text: text.get_window_extent() for text in texts if text.get_visible() and text.get_text()}


def check_readable(figure):
    found = boxes(figure)
    width, height = figure.bbox.size
    for text, box in found.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} is cut off"
    for (one, first), (two, second) in itertools.combinations(found.items(), 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
        assert apart, f"{one.get_text()!r} lies over {two.get_text()!r}"


@pytest.mark.parametrize("kind", ["curves", "influence"])
def test_long_names_of_folders(run, kind):
    figure = getattr(plots, kind)([run(name) for name in ENDS])
    check_readable(figure)
    written = {text.get_text() for text in boxes(figure)}
    assert {f"…{i}_and_the_same_e…_of_it_all" for i in range(3)} <= written


@pytest.mark.parametrize("names", [LONG, ["W" * 40 + c + "W" * 40 for c in "abcdef"]])
@pytest.mark.parametrize("kind", ["curves", "influence"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_long_names_of_types(run, kind, names, scale):
    """The panels share their scale, or have their own."""
    curves = {name: np.arange(4.0) * (scale if name == names[0] else 1) for name in names}
    check_readable(getattr(plots, kind)(run(**curves)))


def test_few_long_types_beside_the_curves(run):
    check_readable(plots.curves(run(**dict.fromkeys(ENDS, range(4)))))


@pytest.mark.parametrize("name", ["{}", "run_of_some_length_{}", "W" * 30 + "{}" + "W" * 30])
def test_many_runs_leave_the_panels_their_height(run, name):
    def height(count):
        figure = plots.curves([run(name.format(chr(97 + i))) for i in range(count)])
        check_readable(figure)
        return figure.axes[0].get_window_extent().height, figure

    few, _ = height(2)
    many, figure = height(28)
    assert many > 0.9 * few
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 28


def test_more_runs_than_lines_can_tell_apart(run):
    with pytest.raises(ValueError, match="recording: expected at most 28, whose lines can be told apart, got 29"):
        plots.curves([run(str(i)) for i in range(29)])
    plots.influence([run(str(i)) for i in range(29)])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (ENDS, [f"…{i}_and_the_same_e…_of_it_all" for i in range(3)]),
        ([f"{'a' * 30}{i}{'b' * 30}" for i in "xy"], [f"…{i}{'b' * 15}…{'b' * 10}" for i in "xy"]),
        (["short", "a" * 60], ["short", "a" * 17 + "…" + "a" * 10]),
    ],
)
def test_names_keep_what_differs(names, expected):
    assert short(names) == expected


@pytest.mark.parametrize(
    "names",
    [
        LONG,
        ["a" * n for n in range(40, 44)],
        ["a" * 20 + "".join(each) + "a" * 20 for each in itertools.product("xyz", repeat=3)],
        [f"{'a' * 20}{i}{'b' * 50}{j}{'c' * 20}" for i in range(3) for j in range(3)],
        [f"{'x' * 9}{i}{'a' * 40}{j}{'b' * 40}{k}{'c' * 40}" for i in "AB" for j in range(3) for k in range(3)],
        [f"{'x' * 30}{i}{'-' * 30}{i}" for i in range(200)],
    ],
)
def test_short_names_are_short_and_different(names):
    found = short(names)
    assert len(set(found)) == len(names)
    assert max(map(len, found)) <= 28


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("last", [np.nan, -np.inf])
def test_scales_of_a_run_that_diverged(run, last, flipped):
    """Scales are each panel's own where a finite span is far beyond the others, whichever run comes first."""
    spans = {name: 100.0 if name == "a" else 1.0 for name in "abcdef"}
    whole = run("whole", **{name: [0, 0.5, 1, 1] for name in spans})
    lost = run("lost", **{name: [0, far / 2, far, last] for name, far in spans.items()})
    runs = [whole, lost][:: -1 if flipped else 1]
    for figure in (plots.curves(lost), plots.curves(runs)):
        assert "own scale" in figure.get_supylabel()
    assert "own scale" not in plots.curves(whole).get_supylabel()


def test_a_type_without_finite_values_has_no_say(run):
    lost = run(**{name: [np.nan] * 4 if name in "abc" else [0, 1, 2, 3] for name in "abcdef"})
    assert "own scale" not in plots.curves(lost).get_supylabel()


def test_nothing_known_is_written_as_nan(run):
    axes = plots.influence(run(a=[np.nan, 1, 2, np.nan], b=[0, 1, -np.inf, np.nan])).axes[0]
    written = [text.get_text() for text in axes.texts]
    assert written == ["nan"] * 4 + ["0", "+1.0", "-inf", "nan"]
    assert axes.texts[6].get_color() == "black"  # its cell is left white


def test_infinities_are_drawn_without_warnings(run):
    lost = run(**{name: [-np.inf, -1, -np.inf, np.nan] for name in "abcde"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            plots.curves(lost),
            plots.curves(lost, change=True),
            plots.curves(lost, types="a", change=True),
            plots.confidence(lost, change=True),
            plots.influence(lost),
        ):
            FigureCanvasAgg(figure).draw()


def test_types_are_drawn_once(run):
    several = run(a=range(4), b=range(4), chosen=range(4))
    twice = plots.curves(several, types=["b", "a", "b"]).axes[0]
    assert [line.get_label() for line in twice.lines] == ["b", "a"]
    (line,) = plots.curves(several, types="chosen").axes[0].lines
    assert line.get_label() == "chosen"
    labels = plots.influence(several, types=["a", "a"]).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["a"]


def test_confidence_as_change(run):
    (line,) = plots.confidence(run(a=[3, 5, 7, 9]), change=True).axes[0].lines
    assert line.get_ydata().tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("draw", [plots.curves, plots.confidence, plots.influence])
def test_what_is_no_recording(draw, tmp_path):
    for wrong, said in (("run", "'run'"), (["run"], "'run'"), (tmp_path, "PosixPath"), (5, "5"), (None, "None")):
        with pytest.raises(TypeError, match=f"recording: expected a Recording, or several, got {said}"):
            draw(wrong)
