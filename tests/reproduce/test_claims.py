"""The rule of the verdicts, and that every claim is about rows that its table has."""

from __future__ import annotations

from dataclasses import replace
from math import hypot, sqrt

import numpy as np
import pytest

from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kinds import kinds
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.claims import AT_THE_TOP, BAND, COMPOSITION, EDIT, T2I, Claim, judge
from danceopd_ext.reproduce.drawing_scores import TIMES, read_marks, redrawn, write_marks
from danceopd_ext.reproduce.entries import Entry, read_entries, write_entries
from danceopd_ext.reproduce.page import claims_of
from danceopd_ext.reproduce.plan import with_gap
from danceopd_ext.reproduce.stats import FAILS, HOLDS, OPEN, Stat, combined, greater, margin, stat, within
from danceopd_ext.reproduce.summary import GAP, WORST, pictures_of, summarise, with_worst
from danceopd_ext.reproduce.tables import TABLES

HIGH, LOW = Stat(0.8, 0.02, 3, 200), Stat(0.5, 0.02, 3, 200)


def difference(one, other):
    return greater([(1.0, one), (-1.0, other)])


def test_a_clear_difference_holds_and_its_opposite_does_not():
    assert difference(HIGH, LOW) == HOLDS
    assert difference(LOW, HIGH) == FAILS
    assert difference(HIGH, HIGH) == OPEN


#: of Student's distribution: 0.975 of it lies below, with so many degrees of freedom
QUANTILES = {2: 4.302653, 4: 2.776445, 28: 2.048407}


@pytest.mark.parametrize(("seeds", "freedom"), [(3, 4), (15, 28)])
def test_the_confidence_interval_decides(seeds, freedom):
    """With no spread of drawings the error is std / sqrt(seeds) of each, and equal spreads share their freedom."""
    half = QUANTILES[freedom] * sqrt(2 * 0.03**2 / seeds)
    one = Stat(0.5, 0.03, seeds)
    assert difference(replace(one, mean=0.5 + 1.01 * half), one) == HOLDS
    assert difference(replace(one, mean=0.5 + 0.99 * half), one) == OPEN
    assert difference(replace(one, mean=0.5 - 1.01 * half), one) == FAILS


def test_few_trainings_against_what_is_not_trained_need_more():
    """The spread is then of one row alone, with two degrees of freedom for three trainings."""
    one, source = Stat(0.5, 0.03, 3), Stat(0.5, None, 0)
    assert margin([(1.0, one), (-1.0, source)]) == pytest.approx(QUANTILES[2] * 0.03 / sqrt(3), rel=1e-6)


def test_drawings_are_many():
    """Where the spread of drawings is all, the interval is that of a normal distribution."""
    one, other = Stat(0.5, 0.0, 3, 100), Stat(0.5, None, 0, 100)
    assert margin([(1.0, one), (-1.0, other)]) == pytest.approx(1.959964 * hypot(0.05, 0.05), rel=1e-6)
    little = margin([(1.0, replace(one, std=0.01)), (-1.0, other)])
    assert little == pytest.approx(1.959964 * hypot(0.05, 0.05, 0.01 / sqrt(3)), rel=1e-3)


def test_equal_trainings_without_drawings_are_sure():
    assert margin([(1.0, Stat(0.5, 0.0, 3)), (-1.0, Stat(0.4, 0.0, 3))]) == 0
    assert difference(Stat(0.5, 0.0, 3), Stat(0.4, 0.0, 3)) == HOLDS


def test_one_seed_resolves_nothing():
    assert difference(stat([0.9], True, 1000), stat([0.1, 0.1], True, 1000)) == OPEN
    assert combined([(1.0, stat([0.9], True))]) == (0.9, None)


def test_what_is_not_trained_is_sure_but_for_its_drawings():
    assert difference(stat([0.9], False, 200), stat([0.1], False, 200)) == HOLDS
    assert difference(stat([0.9], False, 4), stat([0.4], False, 4)) == OPEN
    assert difference(stat([1.0], False, 1), stat([0.0], False, 1)) == OPEN, "one drawing each is not certain"


def test_more_drawings_and_more_seeds_are_surer():
    assert stat([0.5], False, 400).of_drawings < stat([0.5], False, 100).of_drawings
    assert stat([0.5], False, 100).of_drawings == pytest.approx(0.05)
    assert Stat(0.5, 0.1, 6).of_trainings < Stat(0.5, 0.1, 3).of_trainings
    assert combined([(2.0, Stat(0.5, 0.09, 9, 100))]) == (1.0, pytest.approx(2 * hypot(0.03, 0.05), rel=1e-2))


def test_hard_drawings_are_hard_for_all_models(tmp_path):
    """Two models are right half of the time; one of them a little more often, and on the same drawings or not."""
    random = np.random.default_rng(0)
    hard = random.random((6, 64)) < 0.5
    better = np.where(random.random((6, 64)) < 0.1, 1.0, hard)
    entries = [Entry("one", {EDIT: float(better.mean())}), Entry("other", {EDIT: float(hard.mean())})]

    def verdict(other):
        write_marks(tmp_path / "marks.npz", [{"edit": better.astype(np.float32)}, {"edit": other.astype(np.float32)}])
        lines = summarise(entries, 64, redrawn(entries, read_marks(tmp_path / "marks.npz")))
        assert [line.scores[EDIT].redrawn.mean() for line in lines] == pytest.approx(
            [entry.values[EDIT] for entry in entries], abs=0.01
        )
        return difference(*(line.scores[EDIT] for line in lines))

    shuffled = random.permuted(hard, axis=1)
    assert (verdict(hard), verdict(shuffled)) == (HOLDS, OPEN)
    assert difference(*(line.scores[EDIT] for line in summarise(entries, 64))) == OPEN


def test_columns_of_other_drawings_are_those_of_entries():
    """Where every drawing of a kind has the same mark, no choice of drawings changes a column."""
    values = np.arange(12).reshape(2, 6) / 12
    marks = {measure: np.repeat(row[:, None], 5, axis=1) for measure, row in zip(("edit", "t2i"), values, strict=True)}
    columns = redrawn([Entry("a", {}, seed=0), Entry("a", {}, seed=1)], [marks, marks])["a", 1.0]
    scopes = [kind.scope == "local" for kind in EDIT_KINDS.values()]
    expected = {EDIT: values[0].mean(), T2I: values[1].mean(), WORST: 0.0}
    expected |= {
        "edit local average": values[0][scopes].mean(),
        "t2i counting": values[1][list(kinds()).index("counting")],
    }
    for column, value in expected.items():
        assert columns[column] == pytest.approx(np.full(TIMES, value)), column


def test_what_never_changed_is_not_certain():
    always, never = (Stat(mean, None, 0, 4, np.full(9, mean)) for mean in (1.0, 0.0))
    assert combined([(1.0, always), (-1.0, never)]) == (1.0, 0.25)


def test_about_the_same_needs_to_be_surely_the_same():
    one = Stat(0.5, 0.001, 3)
    assert within({"a": one, "b": replace(one, mean=0.5 + BAND / 2)}, BAND) == HOLDS
    assert within({"a": one, "b": replace(one, mean=0.5 + 2 * BAND)}, BAND) == FAILS
    assert within({"a": replace(one, std=0.2), "b": one}, BAND) == OPEN
    assert within({"a": replace(one, seeds=1, std=None), "b": one}, BAND) == OPEN
    near = replace(one, std=0.03)
    assert within({"a": near, "b": replace(near, mean=0.5 + 1.1 * BAND)}, BAND) == OPEN
    far = {"a": one, "b": one, "c": replace(one, mean=0.5 - 2 * BAND)}
    assert within(far, BAND) == FAILS


def test_means_and_spreads_over_seeds():
    entries = [Entry("a", {EDIT: value}, seed=seed, forwards=10) for seed, value in enumerate((0.2, 0.4, 0.9))]
    (line,) = summarise(entries, 8)
    assert line.scores[EDIT] == Stat(0.5, pytest.approx(0.3605551), 3, 48)
    assert line.forwards == Stat(10, 0, 3, None)
    assert summarise([Entry("base", {EDIT: 0.2})], 8)[0].scores[EDIT] == Stat(0.2, None, 0, 48)


def test_how_many_drawings_a_column_is_made_of():
    local = sum(kind.scope == "local" for kind in EDIT_KINDS.values())
    assert pictures_of("edit subject add", 5) == 5
    assert pictures_of("edit average", 5) == pictures_of("t2i overall", 5) == 30
    assert pictures_of("edit local average", 5) == 5 * local == 20
    assert pictures_of("edit global average", 5) == 10
    assert pictures_of("style gap closed", 5) is None


def test_the_worst_kind_is_that_of_all_measures_and_no_average():
    values = {"edit subject add": 0.4, "edit average": 0.1, "t2i counting": 0.3, "t2i overall": 0.2}
    assert with_worst([Entry("a", values)])[0].values == {**values, WORST: 0.3}
    assert pictures_of(WORST, 5) == 5


def test_a_verdict_has_the_figures_of_its_models():
    entries = [Entry("DanceOPD", {EDIT: value}, seed=s) for s, value in enumerate((0.8, 0.82, 0.84))]
    entries += [Entry("joint training", {EDIT: value}, seed=s) for s, value in enumerate((0.4, 0.41, 0.42))]
    claim = next(claim for claim in COMPOSITION if claim.text == "DanceOPD edits better than joint training")
    verdict = judge(claim, summarise(entries, 64))
    assert verdict.verdict == HOLDS
    assert verdict.ours == "DanceOPD: 0.820 ± 0.02; joint training: 0.410 ± 0.01"
    assert claim.paper == "5.347 against 4.617"
    missing = judge(claim, summarise(entries[:3], 64))
    assert (missing.verdict, missing.ours) == (OPEN, "not run: joint training")


def test_what_cannot_be_beaten_is_said_to_be_at_the_top():
    """No score is above 1, and half an interval of these drawings is about 0.01."""
    claim = next(claim for claim in COMPOSITION if claim.text == "DanceOPD edits better than joint training")

    def verdict(ours, value):
        entries = [Entry(name, {EDIT: one}, seed=s) for s in range(3) for name, one in
                   (("DanceOPD", ours), ("joint training", value))]  # fmt: skip
        return judge(claim, summarise(entries, 64)).verdict

    assert [verdict(1.0, value) for value in (0.9, 0.97, 0.99)] == [HOLDS, HOLDS, AT_THE_TOP]
    assert [verdict(value, 1.0) for value in (0.9, 1.0)] == [FAILS, AT_THE_TOP]


def test_a_wide_spread_of_ours_is_no_lack_of_room():
    """What a perfect model could show is not hidden by how far ours is from perfect."""
    claim = next(claim for claim in COMPOSITION if claim.text == "DanceOPD edits better than joint training")
    entries = [Entry("DanceOPD", {EDIT: one}, seed=s) for s, one in enumerate((0.4, 0.8, 0.6))]
    entries += [Entry("joint training", {EDIT: 0.9}, seed=s) for s in range(3)]
    assert judge(claim, summarise(entries, 64)).verdict == OPEN


def test_factors_count():
    """More than half of the gap between 0.1 and 0.9 is more than 0.5."""
    claim = Claim("style", "", "", ((1.0, "student", EDIT), (-0.5, "base", EDIT), (-0.5, "teacher", EDIT)))

    def verdict(value):
        entries = [Entry("base", {EDIT: 0.1}), Entry("teacher", {EDIT: 0.9})]
        entries += [Entry("student", {EDIT: value + 0.01 * s}, seed=s) for s in range(3)]
        return judge(claim, summarise(entries, 64)).verdict

    assert [verdict(value) for value in (0.7, 0.5, 0.3)] == [HOLDS, OPEN, FAILS]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("table", TABLES)
def test_every_claim_is_about_rows_of_its_table(table, budget):
    sizes = BUDGETS[budget]
    rows = TABLES[table](sizes).rows
    names = {row.label if beta == 1 else f"{row.label}, beta {beta:g}" for row in rows for beta in row.betas}
    claims = claims_of(table, sizes)
    assert claims or table == "tuning"
    for claim in claims:
        assert claim.table == table
        assert {label for _, label, _ in claim.parts} <= names
        assert claim.same or sum(factor > 0 for factor, _, _ in claim.parts) == 1


def test_labels_are_unique():
    for make in TABLES.values():
        labels = [row.label for row in make(BUDGETS["full"]).rows]
        assert len(set(labels)) == len(labels)


def test_entries_are_read_back_exactly(tmp_path):
    entries = [Entry("a, b", {"x": 1 / 3}, "g", 1, 3.0, 7.0, 12, 4, 0.5), Entry("c", {"y": 0.1 + 0.2})]
    write_entries(tmp_path / "t.csv", entries)
    assert read_entries(tmp_path / "t.csv") == entries


def test_the_gap_that_is_closed():
    def gaps(*scores):
        found = with_gap([Entry(str(place), {"style overall": score}) for place, score in enumerate(scores)])
        return [entry.values.get(GAP) for entry in found]

    assert gaps(0.1, 0.9, 0.7, 0.05) == pytest.approx([0, 1, 0.75, -0.0625])
    assert gaps(0.5, 0.5, 0.7) == [None] * 3, "there is no gap to close"
