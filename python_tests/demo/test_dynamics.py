"""The recorded study shows what guides/dynamics.md tells, and a short run of the same code works the same way."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from eft_ext.demo.dynamics.data import KINDS, preferences, probes, with_own
from eft_ext.demo.dynamics.findings import BELLS, FLUENT, costs, findings, table
from eft_ext.demo.dynamics.record import StudyRecord
from eft_ext.demo.dynamics.runs import QUICK, StudyPlan, run_sft
from eft_ext.demo.dynamics.study import run_seed
from eft_ext.demo.trio import EFT, TUNED, load_trio
from eft_ext.dynamics import Recording, bootstrap

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record():
    return StudyRecord.read(ROOT / "docs" / "data" / "dynamics")


@pytest.fixture(scope="module")
def trio():
    return load_trio()


def change(record, run, kind, response, statistic="log_prob", first=0, last=-1, probe=True):
    steps, values = record.curve(run, kind, response, statistic, probe)
    at = {int(s): i for i, s in enumerate(steps)} | {-1: -1}
    return values[at[last]] - values[at[first]]


def both_say(record, sign, *what, **more):
    """The interval over the probes of the first seed excludes zero, and every seed's mean has the sign."""
    over_probes = bootstrap(change(record, *what, **more)).sign == sign
    return over_probes and (np.sign(change(record, *what, probe=False, **more)) == sign).all()


def test_the_record_is_small_and_whole(record):
    files = list((ROOT / "docs" / "data" / "dynamics").iterdir())
    assert sum(f.stat().st_size for f in files) < 300_000
    assert {row["seed"] for row in record.curves} == {row["seed"] for row in record.grades} == set(range(5))
    assert {(row["run"], row["kind"]) for row in record.grades} == {
        ("sft", ""),
        *((run, kind) for run in ("dpo", "extended", "dpo-extended") for kind in KINDS),
    }


def test_paraphrases_rise_and_fall_in_sft(record):
    """The paper's bell, also in the responses of other questions."""
    for response, peak in zip(BELLS, (5, 5, 30, 30), strict=True):
        assert both_say(record, 1, "sft", "", response, last=peak)
        assert both_say(record, -1, "sft", "", response, first=peak)
    assert both_say(record, 1, "sft", "", "chosen")


def test_answers_of_other_training_questions_rise_no_more_than_unseen_ones(record):
    """The paper's hallucination: not seen here, neither over the probes nor over the seeds."""
    over_probes, over_seeds = (
        change(record, "sft", "", "irr_train", probe=probe) - change(record, "sft", "", "irr_test", probe=probe)
        for probe in (True, False)
    )
    assert over_probes.mean() == pytest.approx(0.275, abs=0.001)
    assert bootstrap(over_probes).sign == 0
    assert (over_seeds > 0).sum() == 3
    (said,) = (finding for finding in findings(record) if "irr_train rises more than irr_test" in finding.text)
    assert not said.seen
    assert said.figure == bootstrap(over_probes)
    assert (said.agree, said.seeds) == (3, 5)


def test_everything_falls_in_dpo_on_rejected_of_another_format(record):
    """All responses to the prompt in every seed, other prompts' responses in four seeds of five at least."""
    to_it, to_others = FLUENT.values()
    for response in to_it:
        assert both_say(record, -1, "dpo", "format", response)
    for response in to_others:
        assert bootstrap(change(record, "dpo", "format", response)).sign == -1
        assert (change(record, "dpo", "format", response, probe=False) < 0).sum() >= 4
    assert not all(both_say(record, -1, "dpo", "format", response) for response in to_others)
    # Elsewhere they do not all fall.
    for kind in ("foreign", "own"):
        assert not all(both_say(record, -1, "dpo", kind, response) for response in to_it)


def test_the_argmax_rises_only_where_the_rejected_are_foreign(record):
    argmax = "argmax_log_prob_mean"
    assert both_say(record, 1, "dpo", "foreign", "rejected", argmax)
    assert both_say(record, -1, "dpo", "format", "rejected", argmax)
    assert not both_say(record, 1, "dpo", "own", "rejected", argmax)


def test_on_policy_moves_least(record):
    """Rejected responses that the model says itself fall by a few nats, off-policy ones by a hundred; of chosen and the
    responses to other prompts this does not hold."""
    falls = {kind: change(record, "dpo", kind, "rejected", probe=False) for kind in KINDS}
    assert (falls["own"] > -4).all()
    assert (falls["format"] < -60).all()
    assert (falls["foreign"] < -60).all()
    tops = {kind: abs(change(record, "dpo", kind, "rejected", "argmax_log_prob_mean", probe=False)) for kind in KINDS}
    assert tops["own"].mean() < min(tops["foreign"].mean(), tops["format"].mean())
    chosen = {kind: change(record, "dpo", kind, "chosen", probe=False) for kind in KINDS}
    assert (chosen["own"] > chosen["format"]).all()
    for response in ("chosen", "irr_train", "irr_test", "cross_prompt"):
        own, foreign = (abs(change(record, "dpo", kind, response, probe=False)) for kind in ("own", "foreign"))
        assert own.mean() > foreign.mean()


def test_what_goes_with_the_loss_of_facts(record):
    """Chosen falls in every seed where EFT loses facts: as far as the page says."""
    for kind, least, most, points in (("format", -3.05, -1, 41.6), ("own", -2, -0.05, 8.2)):
        fall = change(record, "dpo", kind, "chosen", probe=False)
        assert ((fall > least) & (fall < most)).all()
        lost = record.grade("sft", "", EFT, "fact").mean() - record.grade("dpo", kind, EFT, "fact").mean()
        assert 100 * lost == pytest.approx(points, abs=0.06)
    assert (abs(change(record, "dpo", "foreign", "chosen", probe=False)) < 0.1).all()
    ends = change(record, "dpo-extended", "foreign", "rejected", "argmax_log_prob_mean", probe=False)
    assert (ends < 0).all()


def test_the_mitigation_relieves_at_first_and_then_does_not(record):
    def relief(kind, response, statistic="log_prob", **more):
        pair = (change(record, run, kind, response, statistic, **more) for run in ("dpo-extended", "dpo"))
        return next(pair) - next(pair)

    for kind in ("foreign", "format"):
        assert bootstrap(relief(kind, "chosen", last=20)).sign == 1
        assert (relief(kind, "chosen", last=20, probe=False) > 0).all()
    assert bootstrap(relief("foreign", "rejected", "argmax_log_prob_mean")).sign == -1
    assert bootstrap(relief("format", "chosen")).sign == -1
    assert (relief("format", "chosen", probe=False) < 0).all()


def test_what_squeezing_does_to_the_up_scaled_model(record):
    """EFT inherits what DPO does to the small model; here the mitigation makes that worse, not better."""

    def eft(run, kind, name="fact"):
        return record.grade(run, kind, EFT, name)

    sft = eft("sft", "")
    assert sft.mean() > 0.9
    assert bootstrap(eft("dpo", "foreign") - sft).sign == 0
    assert bootstrap(eft("dpo", "own") - sft).sign == -1
    assert bootstrap(eft("dpo", "format") - sft).high < -0.3
    for kind in ("foreign", "format"):
        assert bootstrap(eft("dpo-extended", kind) - eft("dpo", kind)).sign == -1
    assert bootstrap(eft("dpo-extended", "own") - eft("dpo", "own")).sign == 0
    # The small model alone never knew the facts, so it cannot show the loss.
    assert record.grade("sft", "", TUNED, "fact").mean() < 0.06


@pytest.mark.slow
def test_pictures_clip_nothing_and_say_their_units(record):
    """Lines of the whole record, in nats, on scales that panels of a row share."""
    pytest.importorskip("matplotlib")
    from eft_ext.demo.dynamics import figures

    for figure, shared in ((figures.sft(record), 1), (figures.dpo(record), 3)):
        for i, axes in enumerate(figure.axes):
            low, high = axes.get_ylim()
            drawn = np.concatenate([line.get_ydata() for line in axes.lines])
            assert low < drawn.min() < drawn.max() < high
            first = figure.axes[i - i % shared]
            assert axes.get_ylim() == first.get_ylim()
            assert "nats" in first.get_ylabel() or "own scale" in axes.get_title()
    (legend,) = figures.dpo(record).legends
    assert len(legend.get_texts()) == 7


@pytest.mark.slow
def test_the_tutorial_quotes_the_record(record):
    text = (ROOT / "docs" / "guides" / "dynamics.md").read_text()
    for line in [*map(str, findings(record)), *costs(record)]:
        assert line in text
    for row in table(record):
        assert "| " + " | ".join(row) + " |" in text


@pytest.mark.slow
def test_a_short_run_shows_the_bell(trio, tmp_path):
    """Sixty steps, eight probes: the paraphrase rises and falls in a run made here and now."""
    plan = StudyPlan(probes=8, sft_steps=60, sft_records=(5,))
    rows = preferences(trio.world, "format", 0)
    watched = probes(trio.world, rows, plan.probes, "format", 0)
    run_sft(trio.base, trio.tokenizer, rows, watched, tmp_path, plan, 0, extend=False)
    curve = Recording(tmp_path).curve("chosen_paraphrase").mean(1)
    assert curve[1] > curve[0] + 0.2
    assert curve[-1] < curve[0] - 2


@pytest.mark.slow
def test_the_whole_study_runs(trio, tmp_path):
    curves, grades = run_seed(trio, 0, tmp_path, QUICK)
    made = StudyRecord(curves, grades)
    made.write(tmp_path)
    again = StudyRecord.read(tmp_path)
    assert len(findings(again)) == 2 * len(BELLS) + 1 + 6 * len(KINDS)
    assert len(list(table(again))) == 21
    steps, values = again.curve("dpo", "own", "chosen")
    assert steps.tolist() == [0, 2, 3]
    assert values.shape == (3, QUICK.probes)
    exact = [r["log_prob"] for r in curves if (r["run"], r["kind"], r["type"]) == ("dpo", "own", "chosen")]
    np.testing.assert_allclose(values.ravel(), exact, atol=6e-4)
    with pytest.raises(ValueError, match="expected a recorded run"):
        again.curve("dpo", "nobody", "chosen")


def test_preferences(trio):
    world = trio.world
    made = {kind: preferences(world, kind, 0) for kind in KINDS[:2]}
    for kind, rows in made.items():
        assert len(rows) == 1901
        assert all(p.question.answer in p.chosen for p in rows)
        said = [re.split(r" is |been ", p.rejected)[1].split(".")[0].removesuffix(" or not") for p in rows]
        assert all(value != p.question.answer for value, p in zip(said, rows, strict=True)), kind
    own = with_own(made["format"][:8], trio.tuned, trio.tokenizer, 0)
    assert all(p.rejected != p.chosen for p in own)
    assert own == with_own(made["format"][:8], trio.tuned, trio.tokenizer, 0)
