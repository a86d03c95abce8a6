"""Every table, end to end, on random weights; and its numbers worked out once more."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import asdict
from statistics import mean, stdev

import pytest
from PIL import Image
from safetensors.torch import load_file

from danceopd_ext.cli import run as exit_code
from danceopd_ext.config.load import load_preset
from danceopd_ext.demo.edits import EDIT_KINDS
from danceopd_ext.demo.kinds import kinds
from danceopd_ext.reproduce.budgets import BUDGETS
from danceopd_ext.reproduce.command import main, only
from danceopd_ext.reproduce.entries import FACTS, read_entries
from danceopd_ext.reproduce.page import write_page
from danceopd_ext.reproduce.plan import pictures_of, plan_table, training_seeds
from danceopd_ext.reproduce.pretrained import Pretrained
from danceopd_ext.reproduce.runner import cost_of, train_missing
from danceopd_ext.reproduce.tables import TABLES
from tests.toolkits.runs import same_tensors

SMOKE = BUDGETS["smoke"]
SEEDS = {"composition": 1, "local-global": 1, "style": 2, "guidance": 1, "ablations": 1, "tuning": 1}
#: rows of a table that are enough to see it work, where the others differ in a number
ONLY = {"tuning": ("DanceOPD: rate 0.003, beta2 0.98", "joint training: rate 0.006, beta2 0.999")}


@pytest.fixture(scope="module")
def out(pretrained, here, tmp_path_factory):
    """All tables in one folder, as somebody makes them one after the other."""
    folder = tmp_path_factory.mktemp("reproduce")
    for name, seeds in SEEDS.items():
        main([*words(name, pretrained, folder), "--seeds", str(seeds)], start=here)
    return folder


def words(name: str, pretrained: Pretrained, folder) -> list[str]:
    rows = ["--only", *ONLY[name]] if name in ONLY else []
    return [name, "--budget", "smoke", "--jobs", "1", "--sources", str(pretrained.folder), "--out", str(folder), *rows]


def rows_of(out, name):
    with open(out / "results" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plan_of(out, name, pretrained):
    table = only(TABLES[name](SMOKE), ONLY.get(name))
    return plan_table(table, SMOKE, training_seeds(table, SEEDS[name]), pretrained, out)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_row_and_column(out, name, pretrained):
    rows, plan = rows_of(out, name), plan_of(out, name, pretrained)
    assert [row["label"] for row in rows] == [one.row.label for one in plan.drawn]
    columns = set(rows[0]) - set(FACTS)
    for measure in plan.table.measures:
        assert {f"{measure} {kind}" for kind in (EDIT_KINDS if measure == "edit" else kinds())} <= columns
    for row in rows:
        assert all(0 <= float(row[column]) <= 1 for column in columns if row[column] and column != "style gap closed")
    page = (out / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert all(f"| {row['label']} |" in page for row in rows)


@pytest.mark.parametrize("name", TABLES)
def test_its_pictures_are_there(out, name):
    for kind in ("plot", "grid"):
        with Image.open(out / "results" / f"{name}-{kind}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("guidance", "ablations", "tuning")])
def test_its_numbers_are_those_of_the_csv(out, name):
    """Each cell of the Markdown, worked out from the CSV by hand."""
    page = (out / "results" / f"{name}.md").read_text(encoding="utf-8")
    rows = rows_of(out, name)
    checked = 0
    for title, measure in (("Editing", "edit"), ("Text to image", "t2i"), ("Text to image, in the style", "style")):
        found = re.search(rf"^## {title}\n\n(.*?)\n\n", page, re.MULTILINE | re.DOTALL)
        if not found:
            continue
        heads, _, *lines = [line.strip("| ").split(" | ") for line in found[1].splitlines()]
        for line in lines:
            cells = dict(zip(heads, line, strict=True))
            label = cells.pop("model")
            some = [row for row in rows if row["label"] == label]
            cells.pop("seconds"), cells.pop("with backward")
            forwards = cells.pop("forwards").replace(",", "")
            assert forwards in ("-", str(round(mean(int(row["forwards"]) for row in some))))
            for head, cell in cells.items():
                values = [float(row[f"{measure} {head}"]) for row in some]
                scale = 100 if "%" in cell else 1
                numbers = [float(number.rstrip(" %")) for number in cell.split(" ± ")]
                expected = [mean(values), stdev(values)] if len(values) > 1 else [mean(values)]
                assert numbers == pytest.approx([scale * value for value in expected], abs=0.051 if scale > 1 else 6e-4)
                checked += 1
    assert checked >= 7 * len({row["label"] for row in rows})


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_preset_that_the_trainer_takes(out, name, pretrained, tmp_path):
    plan = plan_table(TABLES[name](SMOKE), SMOKE, training_seeds(TABLES[name](SMOKE), 1), pretrained, out)
    for run in plan.runs:
        file = tmp_path / "preset.toml"
        file.write_text(run.toml(), encoding="utf-8")
        preset = load_preset(file)
        assert preset.danceopd.method == run.values["method"]
        assert preset.optimizer.learning_rate == run.values["learning_rate"]


def test_averages_are_the_means_of_their_kinds(out):
    for row in rows_of(out, "composition"):
        edits = [float(row[f"edit {kind}"]) for kind in EDIT_KINDS]
        assert float(row["edit average"]) == pytest.approx(mean(edits))
        assert float(row["t2i overall"]) == pytest.approx(mean(float(row[f"t2i {kind}"]) for kind in kinds()))


def test_costs_are_those_of_the_logs(out, pretrained):
    """Forwards by hand: a step has four samples, and two solver steps are two states."""
    rows = {row["label"]: int(row["forwards"]) for row in rows_of(out, "composition")}
    steps, samples, rollout = SMOKE.steps, SMOKE.samples, SMOKE.rollout
    assert rows["joint training"] == steps * samples
    assert rows["off-policy"] == steps * samples * 2
    assert rows["weight merge"] == rows["T2I source"] == rows["edit source"] == 0
    states = steps * samples * rollout
    assert rows["DiffusionOPD"] == states // 2 + 2 * states  # the first state is noise, and the last needs no step
    assert rows["Flow-OPD"] == 3 * states
    assert steps * samples * 2 <= rows["DanceOPD"] <= steps * samples * (2 + rollout - 1)
    backwards = {row["label"]: int(row["backwards"]) for row in rows_of(out, "composition")}
    assert backwards["joint training"] == backwards["off-policy"] == backwards["DanceOPD"] == steps * samples
    assert backwards["DiffusionOPD"] == backwards["Flow-OPD"] == states
    plan = plan_of(out, "composition", pretrained)
    assert sum(rows.values()) == sum(cost_of(run).forwards for run in plan.runs)


def test_gap_closed_is_between_base_and_teacher(out):
    entries = read_entries(out / "results" / "style.csv")
    base, teacher = (entry.values["style overall"] for entry in entries[:2])
    for entry in entries:
        if teacher > base:
            gap = (entry.values["style overall"] - base) / (teacher - base)
            assert entry.values["style gap closed"] == pytest.approx(gap)
        else:
            assert "style gap closed" not in entry.values


def test_a_style_is_learnt_from_the_checkpoint_and_repeats(out, pretrained, here, tmp_path):
    """The same run elsewhere is the same LoRA, so no weight of the teacher was made up."""
    ours = plan_of(out, "style", pretrained).runs[-1]
    again = plan_table(TABLES["style"](SMOKE), SMOKE, [1, 2], pretrained, tmp_path).runs[-1]
    train_missing([again], 1, here)
    assert again.folder.name == ours.folder.name
    assert same_tensors(again.lora, ours.lora)


def test_runs_are_shared_between_tables(out, pretrained):
    """The student of alpha 1, and the first rows of the ablations, are the composition's."""
    ours = {run.folder for run in plan_of(out, "composition", pretrained).runs}
    assert len(ours & {run.folder for run in plan_of(out, "guidance", pretrained).runs}) == 1
    assert len(ours & {run.folder for run in plan_of(out, "ablations", pretrained).runs}) == 3


def test_rows_that_mean_the_same_are_one_run(out, pretrained):
    """A key that a row sets to its default is no other training."""
    rows = {one.row.label: one.run.folder for one in plan_of(out, "ablations", pretrained).drawn}
    assert rows["query: low_noise"] == rows["routing: hard"] == rows["objective: plain MSE"]
    assert rows["K: 1"] == rows["rollout steps: 2"] != rows["K: 2"]
    assert len({rows[f"query: {name}"] for name in ("low_noise", "mid_noise", "high_noise", "uniform")}) == 4


def test_a_model_of_several_rows_is_shown_once(out, pretrained):
    """Also where there are more seeds: the second one's pictures are others."""
    plan = plan_table(TABLES["ablations"](SMOKE), SMOKE, [1, 2], pretrained, out)
    shown = pictures_of(plan)
    assert len(set(shown.values())) == len(shown)
    assert "routing: hard" in shown and "query: low_noise" not in shown and "query: uniform" in shown


def test_the_early_stop_changes_the_cost_and_not_the_student(out, pretrained):
    rows = {one.row.label: one.run for one in plan_of(out, "ablations", pretrained).drawn}
    on, off = rows["early stop: on"], rows["early stop: off"]
    assert cost_of(on).forwards < cost_of(off).forwards == SMOKE.steps * SMOKE.samples * (SMOKE.rollout + 2)
    one, other = load_file(on.lora), load_file(off.lora)
    assert one.keys() == other.keys()
    assert all((one[key] - other[key]).abs().max() < 1e-4 for key in one)
    soft = load_file(rows["routing: soft"].lora)
    assert any((one[key] - soft[key]).abs().max() > 1e-4 for key in one), "two steps change nothing at all"


def test_nothing_that_settings_are_chosen_by_is_in_another_table(out, pretrained):
    """Neither a training nor a choice of drawings: a table would flatter what was chosen by it."""
    plans = {name: plan_of(out, name, pretrained) for name in TABLES}
    tried = plans.pop("tuning")
    used = [one for plan in plans.values() for one in plan.drawn]
    assert not {run.values["seed"] for run in tried.runs} & {one.run.values["seed"] for one in used if one.row.trained}
    assert not {one.job.seed for one in tried.drawn} & {one.job.seed for one in used}


def forbidden(*_):
    raise AssertionError("a finished run was started again")


def test_a_finished_table_is_written_again_without_a_training(out, pretrained, capsys):
    before = (out / "results" / "style.csv").read_text(encoding="utf-8")
    capsys.readouterr()
    main([*words("style", pretrained, out), "--seeds", "2"], start=forbidden)
    assert (out / "results" / "style.csv").read_text(encoding="utf-8") == before
    assert before.splitlines()[0].startswith("label,group,seed")
    assert "style.md" in capsys.readouterr().out


def test_the_page_has_every_table_and_how_it_was_made(out):
    page = (out / "results" / "README.md").read_text(encoding="utf-8")
    assert all(f"## {name}" in page and f"({name}.md)" in page for name in TABLES)
    assert "Not run yet" not in page
    assert page.count("**not resolved**") > 20
    facts = json.loads((out / "results" / "style.json").read_text(encoding="utf-8"))
    assert facts["seeds"] == [1, 2]
    assert facts["budget"] == "smoke"
    assert {"python", "torch", "diffusers"} <= set(facts["versions"])


def test_notes_written_by_hand_follow_the_claims_of_their_table(out):
    """They are written into the page itself, and stay there when it is made again."""
    results = out / "results"
    clean = write_page(results).read_text(encoding="utf-8")
    noted = clean.replace("\n\n## guidance", "\n\n**Why:** the cat.\n\n- *Twice.*\n\n## guidance")
    (results / "README.md").write_text(noted, encoding="utf-8")
    page = write_page(results).read_text(encoding="utf-8")
    assert page == noted
    assert page.index("## style") < page.index("| claim |", page.index("## style")) < page.index("**Why:** the cat.")
    assert page.index("**Why:** the cat.") < page.index("## guidance")
    (results / "README.md").unlink()
    assert "the cat" not in write_page(results).read_text(encoding="utf-8")


def test_a_published_table_keeps_its_section_and_another_beside_it_is_judged(out, tmp_path):
    """What is published has no facts and no marks of single drawings, so no verdict can be worked out again."""
    results = tmp_path / "results"
    shutil.copytree(out / "results", results)
    page = write_page(results).read_text(encoding="utf-8")
    old = page.replace("## style\n\n", "## style\n\nAs it was. ").replace("## guidance\n\n", "## guidance\n\nOld. ")
    (results / "README.md").write_text(old, encoding="utf-8")
    (results / "style.json").unlink()
    (results / "style-marks.npz").unlink()
    again = write_page(results).read_text(encoding="utf-8")
    assert again == page.replace("## style\n\n", "## style\n\nAs it was. ")


def test_tables_of_another_budget_are_linked(out, tmp_path):
    """They lie in a folder that is called so; what is missing there is made with that budget."""
    results, full = tmp_path / "results", tmp_path / "results" / "full"
    shutil.copytree(out / "results", results)
    assert "Tables of budget" not in write_page(results).read_text(encoding="utf-8")
    shutil.copytree(out / "results", full)
    (full / "style.csv").unlink()
    told = write_page(full).read_text(encoding="utf-8")
    assert "Not run yet: `python scripts/reproduce.py style --budget smoke`." in told
    assert "Tables of budget full: [full](full/README.md)." in write_page(results).read_text(encoding="utf-8")


def test_fewer_examples_and_steps_are_another_run(pretrained, here, out, tmp_path):
    few = ["--seeds", "1", "--examples", "1", "--steps", "1", "--results", str(tmp_path)]
    main([*words("style", pretrained, out), *few], start=here)
    sizes = json.loads((tmp_path / "style.json").read_text(encoding="utf-8"))["sizes"]
    changed = {"examples": 1, "steps": 1, "queries": [1, 2], "rollouts": [2, 3], "scales": [1.0, 3.0]}
    assert sizes == {**asdict(SMOKE), **changed}
    told = (tmp_path / "style.md").read_text(encoding="utf-8")
    assert "the same 1 training examples" in told and "1 optimizer steps" in told
    assert (out / "data" / "style-1").is_dir()
    assert len(list((out / "runs").glob("danceopd-style-*"))) == 3  # of two seeds, and this one


def test_keys_of_the_preset_can_be_set_for_every_training(pretrained, here, out, tmp_path):
    changed = ["--seeds", "1", "--only", "off-policy", "--set", "learning_rate=1e-3", "query=uniform"]
    main([*words("style", pretrained, out), *changed, "--results", str(tmp_path)], start=here)
    told = (tmp_path / "style.md").read_text(encoding="utf-8")
    assert 'All rows: learning_rate = 0.001, query = "uniform", 2 optimizer steps' in told
    presets = [path.read_text(encoding="utf-8") for path in (out / "runs").glob("offpolicy-style-*/preset.toml")]
    assert sum("learning_rate = 0.001\n" in one and 'query = "uniform"' in one for one in presets) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat=1", '--set learning_rat=1: unknown argument --learning_rat. Did you mean "learning_rate"?'),
        ("query", "--set query: write KEY=VALUE"),
        ("learning_rate=fast", "--set learning_rate=fast: --learning_rate fast: expected number"),
        ("seed=7", "--set seed: this table sets the key itself"),
        ("train_batch_size=2", "--set train_batch_size: "),
        ("output_dir=there", "--set output_dir: "),
        ("method=soft", "--set method: "),
    ],
)
def test_a_wrong_key_is_named(pretrained, tmp_path, capsys, text, message):
    assert exit_code(main, [*words("style", pretrained, tmp_path / "out"), "--set", text]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_rows_compare_cannot_be_set(pretrained, tmp_path, capsys):
    for key in ("query=uniform", "student_init=merge_average", "num_queries=2"):
        assert exit_code(main, [*words("ablations", pretrained, tmp_path / "out"), "--set", key]) == 2
        assert f"--set {key.partition('=')[0]}: this table sets the key" in capsys.readouterr().err


def test_a_route_of_the_base_can_be_added(pretrained, here, out, tmp_path, capsys):
    """Every method has its prompts; a table that has it already says so."""
    added = ["--seeds", "1", "--base_route", "--only", "DanceOPD", "weight merge", "--results", str(tmp_path)]
    main([*words("local-global", pretrained, out), *added], start=here)
    assert (
        (tmp_path / "local-global.md")
        .read_text(encoding="utf-8")
        .startswith("# Local and global editing, with a route of the base\n")
    )
    for method in ("danceopd", "merge_average"):
        (preset,) = (out / "runs").glob(f"{method}-t2i-local-global-seed*/preset.toml")
        text = preset.read_text(encoding="utf-8")
        assert "[danceopd.teachers.t2i]\n\n[danceopd.teachers.local]" in text and '\nt2i = "' in text
    assert exit_code(main, [*words("composition", pretrained, out), "--base_route"]) == 2
    assert "this table already has a route of the base" in capsys.readouterr().err


def test_some_rows_alone(pretrained, out, tmp_path):
    """What is there already is not trained again."""
    some = ["--seeds", "2", "--only", "DanceOPD", "joint training", "--results", str(tmp_path)]
    main([*words("style", pretrained, out), *some], forbidden)
    labels = [entry.label for entry in read_entries(tmp_path / "style.csv")]
    assert list(dict.fromkeys(labels)) == ["base", "style teacher", "joint training", "DanceOPD"]


def test_a_side_experiment_is_a_page_with_its_command_and_its_numbers_alone(pretrained, out, tmp_path, capsys):
    asked = ["--seeds", "2", "--only", "joint training", "--side", "style-alone", "--results", str(tmp_path)]
    main([*words("style", pretrained, out), *asked], forbidden)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == [
        "side/style-alone.csv",
        "side/style-alone.md",
    ]
    page = (tmp_path / "side" / "style-alone.md").read_text(encoding="utf-8")
    command = 'python scripts/reproduce.py style --budget smoke --seeds 2 --only "joint training" --side style-alone'
    assert f"\n\n    {command}\n\n" in page and "![" not in page
    labels = {entry.label for entry in read_entries(tmp_path / "side" / "style-alone.csv")}
    assert labels == {"base", "style teacher", "joint training"}
    assert all(f"| {label} | " in page for label in labels)
    assert "claims" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../style", "Style", "", "a b", "-a"])
def test_a_wrong_name_of_a_side_experiment_is_refused_before_anything_is_made(pretrained, tmp_path, capsys, name):
    assert exit_code(main, [*words("style", pretrained, tmp_path / "out"), f"--side={name}"]) == 2
    assert f"--side {name}: write a name of lower-case letters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_row_is_named_with_those_that_there_are(pretrained, tmp_path, capsys):
    assert exit_code(main, [*words("style", pretrained, tmp_path / "out"), "--only", "DanceOPD", "Dance"]) == 2
    told = capsys.readouterr().err
    assert "--only Dance: unknown row. The table has the rows joint training, off-policy" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["seeds", "jobs", "examples", "steps"])
def test_wrong_arguments_end_with_one_message(pretrained, tmp_path, capsys, name):
    assert exit_code(main, [*words("style", pretrained, tmp_path / "out"), f"--{name}", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --{name} 0: the value must be 1 or more")
    assert not (tmp_path / "out").exists()
