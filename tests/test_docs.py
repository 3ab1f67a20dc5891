"""The pages say what is so: their code runs, their numbers are measured, their links and pictures exist."""

import io
import math
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import roteq
from roteq.errors import UsageError
from roteq.nn import GroupConv2d
from roteq.study.reproduce import reproduction, reproductions

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FIGURES = sorted(path for path in (DOCS / "figures").rglob("*") if path.is_file())
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.S)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")
ROUNDING = 1e-5

sys.path.insert(0, str(DOCS))  # the scripts that make the pages are no package
try:
    import make_networks
    import make_pitfalls
    import measure_pitfalls
finally:
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The networks are small: threads would cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(page: Path) -> tuple[dict[str, object], str, str]:
    """Run the python blocks of a page in order: their namespace, what they print, and what the page says they print,
    which is the plain block that follows a python block."""
    names: dict[str, object] = {}
    printed, promised, before = io.StringIO(), "", ""
    with torch.random.fork_rng(devices=[]), redirect_stdout(printed):
        for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "python":
                exec(compile(text, page.name, "exec"), names)
            elif language == "" and before == "python":
                promised += text
            before = language
    return names, printed.getvalue(), promised


def assert_says(printed: str, promised: str) -> None:
    """The same words; numbers near each other, which are rounding where they are said to be."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", promised)
    numbers = list(zip(NUMBER.findall(printed), NUMBER.findall(promised), strict=True))
    assert len(numbers) >= 2
    for got, said in numbers:
        if "e" in said and float(said) < ROUNDING:
            assert float(got) < ROUNDING
        else:
            assert float(got) == pytest.approx(float(said), abs=0.3 if "e" in said else 0.08)


@pytest.fixture(scope="module")
def tutorial() -> tuple[dict[str, object], str, str]:
    return run(DOCS / "tutorial.md")


def test_the_tutorial_prints_what_it_says(tutorial):
    assert_says(*tutorial[1:])


def test_the_tutorial_takes_at_most_40_lines():
    blocks = [
        text for language, text in FENCE.findall((DOCS / "tutorial.md").read_text("utf-8")) if language == "python"
    ]
    lines = [line for line in "".join(blocks).splitlines() if line.strip() and not line.strip().startswith("#")]
    assert 30 <= len(lines) <= 40


def test_the_network_of_the_tutorial_learns_and_turning_changes_nothing(tutorial):
    names = tutorial[0]
    images, labels, test, net = names["images"], names["labels"], names["test"], names["p4m"]
    roteq.assert_equivariant(net, "p4m", torch.rand(4, 1, 10, 10, generator=torch.Generator().manual_seed(0)))
    for g in range(8):
        turned = roteq.group("p4m").act_on_image(images[test], g)
        result = roteq.evaluate(labels[test], net(turned).detach().softmax(1), "0123456789")
        assert result.metrics["accuracy"].low > result.majority_rate + 0.5
        if g:
            assert roteq.equivariance_error(net, "p4m", images[test], g) < ROUNDING


def test_the_twin_of_the_tutorial_learns_and_turning_undoes_it(tutorial):
    names = tutorial[0]
    images, labels, test, twin = names["images"], names["labels"], names["test"], names["twin"]
    for turns, better in ((0, True), (1, False), (3, False)):
        logits = twin(torch.rot90(images[test], turns, (2, 3))).detach()
        result = roteq.evaluate(labels[test], logits.softmax(1), "0123456789")
        assert (result.metrics["accuracy"].low > result.majority_rate + 0.5) is better
        assert turns == 0 or roteq.equivariance_error(twin, "p4m", images[test], turns) > 0.3


def test_the_splits_of_the_tutorial_do_not_overlap(tutorial):
    indices = torch.cat([tutorial[0][split] for split in ("train", "validation", "test")])
    assert indices.sort().values.equal(torch.arange(1797))


def test_plain_of_the_tutorial_answers_the_same_without_roteq_convolutions(tutorial):
    names = tutorial[0]
    images, net, twin = names["images"], names["p4m"], names["plain"](names["p4m"])
    torch.testing.assert_close(twin(images), net(images), rtol=0, atol=1e-5)
    assert not any(isinstance(layer, roteq.nn.GroupConv2d | roteq.nn.LiftingConv2d) for layer in twin.modules())


@pytest.mark.parametrize(
    "page",
    [
        *(DOCS / f"{name}.md" for name in ("audit", "convert", "explore", "formula", "maps", "networks")),
        ROOT / "README.md",
    ],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_prints_what_it_says(page):
    _, printed, promised = run(page)
    assert_says(printed, promised)


SLOW = {"BatchNorm per channel", "Channels of another group", "Angles between the quarter turns", "Half precision"}
TRAINED = {"BatchNorm per channel", "Half precision"}  # differ between machines: the sign of a rounding can decide


@pytest.mark.parametrize(
    "heading",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in measure_pitfalls.TABLES],
)
def test_a_table_of_the_pitfalls_is_what_is_measured(heading):
    table, measured = measure_pitfalls.table(heading), measure_pitfalls.TABLES[heading]()
    assert measured and set(measured) <= set(table)
    for name, values in measured.items():
        for cell, value in zip(table[name], values, strict=False):
            if cell == "exact":
                assert abs(value) < ROUNDING, f"{name}: said to be exact, is {value:.2g}"
            else:
                assert value == pytest.approx(float(cell), rel=0.5 if heading in TRAINED else 0.03, abs=1e-3), name


def test_formula_pictures_turn_by_turning_the_formula():
    upright, turned = measure_pitfalls.smooth_pictures(9), measure_pitfalls.smooth_pictures(9, 90.0)
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (-2, -1)))
    assert (upright - turned).norm() > upright.norm()


def words_of(svg: Path) -> list[str]:
    return [text for node in ElementTree.parse(svg).getroot().iter() if (text := (node.text or "").strip())]


@pytest.mark.parametrize("name", make_pitfalls.FIGURES)
def test_a_picture_of_the_pitfalls_is_what_is_drawn_now(name, tmp_path, monkeypatch):
    committed = make_pitfalls.OUT / f"{name}.svg"
    monkeypatch.setattr(make_pitfalls, "OUT", tmp_path)
    with torch.random.fork_rng(devices=[]):
        make_pitfalls.save(name)
    root = ElementTree.parse(committed).getroot()
    assert (root.get("width"), root.get("height")) == ("600", "220")
    assert root.get("aria-label") == ". ".join(make_pitfalls.picture_words(name)), "run docs/make_pitfalls.py"
    assert words_of(committed) == words_of(tmp_path / committed.name), "run docs/make_pitfalls.py"
    assert len(words_of(committed)) >= 2


NETWORKS = (DOCS / "networks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "twin")) for name in make_networks.NETWORKS]
)
def test_a_network_costs_what_its_page_says(name):
    row = re.search(rf"^\| `{name}` \|.*\| (\d+)x\d+x(\d) \| ([\d,]+) \| ([\d,.]+) \|$", NETWORKS, re.M)
    assert row, f"docs/networks.md has no row for {name}"
    _, channels, _, side = make_networks.NETWORKS[name]
    parameters, flops = make_networks.cost(name)
    assert (int(row[1]), int(row[2])) == (side, channels)
    assert row[3] == f"{parameters:,}" and row[4] == f"{flops / 1e6:,.1f}"


def test_every_network_is_shown():
    assert set(make_networks.NETWORKS) == set(roteq.models.MODELS)
    for name in make_networks.NETWORKS:
        assert f"\n### {name}\n" in NETWORKS and f"![{name}](figures/networks/{name}.svg)" in NETWORKS


@pytest.mark.parametrize("name", ["p4cnn", "se2_pcam", pytest.param("e2_mnist", marks=pytest.mark.slow)])
def test_a_picture_of_a_network_is_what_is_drawn_now(name, tmp_path, monkeypatch):
    committed = make_networks.OUT / f"{name}.svg"
    monkeypatch.setattr(make_networks, "OUT", tmp_path)
    make_networks.save(name)
    assert words_of(committed) == words_of(tmp_path / committed.name), "run docs/make_networks.py"
    assert len(words_of(committed)) > 10


def test_every_published_number_is_on_the_page():
    for name in reproductions():
        config = reproduction(name)
        row = re.search(rf"^\| `{name}` \|([^|]*)\|([^|]*)\|", NETWORKS, re.M)
        assert row, f"docs/networks.md has no row for {name}"
        assert f"{config.published.value:g}" in row[1]
        head = reproductions()[name].read_text(encoding="utf-8")
        obtained = re.search(r"^# obtained: +(.*)$", head, re.M)
        assert obtained and (obtained[1] == "not yet run") == (row[2].strip() == "-"), name
        if obtained[1] != "not yet run":
            assert re.search(r"[\d.]+", obtained[1])[0] in row[2], name


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def targets(page: Path) -> list[str]:
    """What a page links to outside of code; so also a formula y[g](x) that is not marked as code."""
    text = re.sub(r"^ {4,}.*$|`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")), flags=re.M)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", target)]


def test_the_links_are_found():
    assert "figures/pitfalls/strides.svg" in targets(DOCS / "pitfalls.md")
    assert sum(len(targets(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    for target in targets(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_relative_to(ROOT) and path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("figure", FIGURES, ids=lambda path: path.stem)
def test_every_figure_is_shown_somewhere(figure):
    shown = {(page.parent / target).resolve() for page in PAGES for target in targets(page)}
    assert figure in shown


def test_every_page_is_linked_from_the_readme():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in targets(ROOT / "README.md")}
    assert set(PAGES[1:]) <= linked


def step(side: int, kernel: int, padding: int) -> str:
    try:
        out = GroupConv2d(1, 1, kernel, 2, padding, group="p4")(torch.zeros(1, 4, side, side))
    except UsageError as error:
        a, b = re.search(r"nearest: sides of (\d+) or (\d+)", str(error)).groups()
        k, m = re.search(r"a kernel that covers (\d+) or (\d+)", str(error)).groups()
        return f"refused: sides {a} or {b}, or a kernel of {k} or {m}"
    return f"{out.shape[-1]}x{out.shape[-1]}"


def test_the_strides_of_the_conventions_are_let_in_and_refused():
    text = (DOCS / "conventions.md").read_text(encoding="utf-8")
    head, _, *rows = [
        line.strip("| ").split(" | ")
        for line in re.findall(r"^\| map(?:.|\n)*?\n\n", text, re.M)[0].splitlines()
        if line
    ]
    assert len(rows) == 2 and len(head) == 4
    for side, *cells in rows:
        for step_name, cell in zip(head[1:], cells, strict=True):
            kernel, padding = int(step_name[0]), int(step_name[-1])
            assert step(int(side.split("x")[0]), kernel, padding) == cell


def test_the_messages_that_the_pitfalls_quote_are_said():
    text = " ".join((DOCS / "pitfalls.md").read_text(encoding="utf-8").split())
    layer, x = GroupConv2d(4, 4, 3, 2, 1, group="D4"), torch.zeros(1, 32, 28, 28)
    with pytest.raises(UsageError, match="stride 2 is symmetric") as strided:
        layer(x)
    with pytest.raises(UsageError, match="was x lifted") as other:
        GroupConv2d(4, 4, 3, group="C4")(x)
    for error, start in ((strided, "sides of"), (other, "expected 4 features on C4")):
        quoted = re.search(f'"({start}[^"]+)"', text)[1]
        assert quoted in str(error.value)


def test_the_impossible_loss_is_impossible():
    text = (DOCS / "pitfalls.md").read_text(encoding="utf-8")
    loss, accuracy = map(float, re.search(r"(0\.\d+) beside an accuracy of (0\.\d+)", text).groups())
    assert loss < (1 - accuracy) * math.log(2)
