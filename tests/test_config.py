import os

import pytest

from roteq.config import Config, apply_override, load_config, save_yaml, to_yaml
from roteq.errors import RoteqError, UsageError, nearest
from roteq.files import atomic_path, load_json, save_json, write_text
from roteq.results import Interval


class Inner(Config):
    lr: float = 1e-3
    name: str | None = None


class Outer(Config):
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    seeds: tuple[int, ...] = (0, 1)


def test_overrides_win_over_the_file_and_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("inner: {lr: 0.5}\nitems: [{name: a}]\n")
    config = load_config(Outer, path, ["inner.name=b", "items.0.lr=1e-2", "seeds=[3]"])
    assert config == Outer(inner=Inner(lr=0.5, name="b"), items=(Inner(lr=0.01, name="a"),), seeds=(3,))


def test_a_saved_configuration_loads_as_itself(tmp_path):
    config = Outer(items=(Inner(name="x"),))
    save_yaml(config, tmp_path / "c.yaml")
    assert load_config(Outer, tmp_path / "c.yaml") == config
    assert "lr: 0.001" in to_yaml(config)  # every default is written out


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1.5E2", 150.0), (".5", 0.5), ("7", 7), ("-3", -3), (".inf", float("inf")),
     ("1:30:00", "1:30:00"), ("010", "010"), ("1e", "1e"), ("true", True), ("null", None), ("[1, 2e1]", [1, 20.0])],
)  # fmt: skip
def test_numbers_are_the_usual_ones(text, value):
    tree = {}
    apply_override(tree, f"a={text}")
    assert tree["a"] == value and type(tree["a"]) is type(value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inner.l=1"], "unknown key 'inner.l'; did you mean 'lr'"),
        (["items=[{nam: a}]"], "unknown key 'items.0.nam'; did you mean 'name'"),
        (["sead=1"], "unknown key 'sead'; did you mean 'seeds'"),
        (["inner.lr=abc"], "inner.lr: input should be a valid number.*got 'abc'"),
        (["inner"], "expected key=value"),
        (["inner=[1"], "not valid YAML"),
        (["items.0.lr=1"], r"items"),
        (["seeds=[1]", "seeds.3=1"], "expected an index from 0 to 0, got '3'"),
        (["inner.lr=1", "inner.lr.x=2"], "'lr' is a value and has no keys below it|nothing can be set"),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        load_config(Outer, None, overrides)


def test_files_that_are_no_configuration_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.yaml: cannot be read"):
        load_config(Outer, tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match="expected keys and values, got a list"):
        load_config(Outer, tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match="not valid YAML"):
        load_config(Outer, tmp_path / "broken.yaml")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with pytest.raises(RoteqError, match="could not be written: No space left"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RoteqError, match=r"could not be written: (File exists|Not a directory)"):
        write_text(tmp_path / "file" / "result.json", "x")


def test_results_save_and_load(tmp_path):
    save_json(Interval(0.5, None, float("nan")), tmp_path / "i.json")
    assert load_json(Interval, tmp_path / "i.json") == Interval(0.5, None, None)
    (tmp_path / "x.json").write_text('{"v": 1}')
    with pytest.raises(RoteqError, match=r"x\.json: not a Interval"):
        load_json(Interval, tmp_path / "x.json")
    with pytest.raises(RoteqError, match="no such file"):
        load_json(Interval, tmp_path / "y.json")


def test_the_nearest_choice_is_named():
    assert nearest("RESNET-50", ["resnet50", "alexnet"]) == "did you mean 'resnet50'?"


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with (
        pytest.raises(RoteqError, match="pipe: could not be written: expected a plain file"),
        atomic_path(pipe) as temporary,
    ):
        temporary.write_text("new")
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]
