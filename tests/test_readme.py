"""The pages cannot differ from the program: links, commands, keys, families and quoted messages."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from danceopd_ext.config import load_preset
from danceopd_ext.config.explain import explain
from danceopd_ext.machine import cuda_install_line
from danceopd_ext.models.part_table import part_table
from danceopd_ext.models.registry import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRESETS = (ROOT / "presets" / "README.md").read_text(encoding="utf-8")
#: folders that are not part of the project
FOREIGN = {"build", "dist", "outputs", "output", "logs"}
#: pages that are written by hand, with commands
GUIDES = ("README.md", "presets/README.md", "scripts/README.md", "tests/README.md", "danceopd_ext/toolkits/README.md",
          "danceopd_ext/models/README.md")  # fmt: skip
#: a link or picture of Markdown: where it leads
LINK = re.compile(r"\]\(([^)\s]+)\)")
#: how messages and comments name a section of a page
SECTION = re.compile(r'"([^"\n]+)" in ((?:\w+/)*README\.md)')


def pages() -> list[str]:
    """Every Markdown file of the project."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.md"))
    return sorted(p.as_posix() for p in found if not (FOREIGN & set(p.parts) or any(x[0] == "." for x in p.parts)))


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def anchors(page: str) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return frozenset(found)


def code_lines(page: str) -> list[str]:
    """The lines of a page's code blocks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}(\S.*)$", re.sub(r"^```.*?^```", "", read(page), flags=re.S | re.M), re.MULTILINE)
    return [line for block in fenced for line in block.splitlines()] + indented


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10 * 1024


@pytest.mark.parametrize("page", pages())
def test_links_and_anchors_lead_somewhere(page):
    wrong = []
    for link in LINK.findall(read(page)):
        if link.startswith(("http:", "https:")):
            continue
        place, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        lost = not target.exists() or (anchor and anchor not in anchors(target.relative_to(ROOT).as_posix()))
        wrong += [link] * bool(lost)
    assert wrong == []


def test_the_check_of_links_finds_links_and_anchors():
    assert sum(len(LINK.findall(read(page))) for page in pages()) > 100
    assert {"keys", "less-memory", "exit-codes"} <= anchors("presets/README.md")
    assert "nowhere" not in anchors("presets/README.md")


def test_sections_that_the_program_names_exist():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "danceopd_ext").rglob("*.py")]
    named = [found for text in texts for found in SECTION.findall(text)]
    assert ("Less memory", "presets/README.md") in named
    for section, page in named:
        assert section.lower().replace(" ", "-") in anchors(page), (section, page)


@pytest.mark.parametrize("page", GUIDES)
def test_commands_name_files_that_exist(page):
    """Scripts of ours and presets, wherever a page names them."""
    for script in re.findall(r"(?<![\w/])((?:scripts/[\w/]+|train_danceopd)\.py)", read(page)):
        assert (ROOT / script).is_file(), script
    for preset in re.findall(r"presets[/\\](\w+\.toml)", read(page)):
        assert (ROOT / "presets" / preset).is_file(), preset


@pytest.mark.parametrize("page", GUIDES)
def test_commands_have_no_placeholder_in_angle_brackets(page):
    """A shell reads `<` as a redirection: the line does not work as it is written."""
    assert [line for line in code_lines(page) if re.search(r"<\w[^>]*>", line)] == []


def test_lines_for_windows_work_in_powershell_and_in_the_command_prompt():
    part = README[README.index("### 12 GB on Windows") : README.index("### 24 GB on Linux")]
    lines = re.findall(r"^\d+\. `([^`]+)`", part, re.MULTILINE)
    assert len(lines) == 9
    for line in lines:  # what the two shells read differently, and what only one of them has
        assert not re.search(r"&&|[<>|;$%^']|\bsource\b|\bexport\b|\bset\b|\./", line), line
        assert not line.startswith(".venv/"), line


def test_torch_for_cuda_is_the_line_that_the_program_gives(monkeypatch):
    """Without -c: pip cannot resolve PyTorch's index with our pins."""
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "scripts" / "constraints.txt").read_text(), re.MULTILINE)[1]
    monkeypatch.setattr("torch.__version__", pinned)
    lines = re.findall(r"-m (pip install .*index-url.*?)`", README)
    assert lines == [cuda_install_line()]


def test_preset_keys_are_those_of_the_schema():
    table = re.search(r"<!-- keys[^>]*-->\n(.*?)<!-- /keys -->", PRESETS, re.DOTALL)[1]
    assert table.strip() == explain().strip(), "run scripts/update_readme.py"


def test_files_that_creators_have_are_those_of_the_families():
    page = (ROOT / "danceopd_ext" / "models" / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- part files[^>]*-->\n(.*?)<!-- /part files -->", page, re.DOTALL)[1]
    assert table.strip() == part_table().strip(), "run scripts/update_readme.py"


def test_the_whole_preset_is_a_good_one(tmp_path):
    text = re.search(r"```toml\n(\[model\].*?)```", PRESETS, re.DOTALL)[1]
    (tmp_path / "preset.toml").write_text(text, encoding="utf-8")
    preset = load_preset(tmp_path / "preset.toml")
    assert set(preset.danceopd.teachers) == {"base", "style", "character"} == set(preset.danceopd.prompts)


def test_every_family_says_what_the_pages_promise():
    for family in FAMILIES.values():
        assert family.default_format in ("kohya", "diffusers", "comfyui")
        assert family.title.split()[0] in PRESETS


def test_every_preset_is_on_a_page():
    reference = PRESETS + read("danceopd_ext/toolkits/README.md")
    assert [path.name for path in (ROOT / "presets").glob("*.toml") if f"{path.name})" not in reference] == []


def message_parts() -> str:
    """All constant text of the package's strings, f-strings included; a line between two of them."""
    found = []
    for path in [*(ROOT / "danceopd_ext").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return "\n".join(found)


def test_messages_that_the_readme_quotes_are_those_of_the_program():
    part = README[README.index("## If something goes wrong") : README.index("## Reference")]
    quoted = re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)
    assert len(quoted) == 10
    said = message_parts()
    for message in quoted:
        for piece in message.split("..."):
            assert piece.strip() in said, piece


def test_every_dependency_is_named_in_the_readme():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    listed = setup[setup.index("install_requires") :]
    packages = re.findall(r'"([a-z][\w-]+?)(?:[<>=;].*?)?"[,\]]', listed)
    credits = README[README.index("## Licence and credits") :]
    assert {"torch", "diffusers", "pyarrow", "tomli"} <= set(packages)
    assert sorted({name for name in packages if name not in credits}) == []
