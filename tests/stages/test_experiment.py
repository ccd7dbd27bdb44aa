"""Recipes: what `make coco2014`, `flickr8k` and `local` give to `dvc exp run`. tests/test_dvc.py runs them."""

import shutil
import subprocess

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from lib.core.errors import UserError
from stages.tools import experiment
from tests.stages.imports import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Work in a Git repository that has params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "start"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


@pytest.fixture
def run(project, monkeypatch):
    """Return a function that runs the tool with a recipe and arguments, and returns the arguments of `dvc exp run`."""
    started = []
    monkeypatch.setattr("os.execve", lambda program, words, environment: started.append(words[5:]))

    def run(recipe: str, *arguments: str) -> list[str]:
        (project / "mine.yaml").write_text(recipe)
        monkeypatch.setattr("sys.argv", ["experiment", "mine.yaml", *arguments])
        experiment.main()
        return started.pop()

    return run


def test_a_recipe_and_the_settings_after_it_reach_dvc(run):
    recipe = "backbone: {mean: [0.5, 0.5, 0.5]}\nfinetune: {learning_rate: 5e-05}\ntrain:\n  patience: null\n"
    assert run(recipe, "-S", "dataset.name=flickr8k", "--temp") == [
        "--set-param=backbone.mean=[0.5,0.5,0.5]", "--set-param=finetune.learning_rate=5e-05",
        "--set-param=train.patience=null", "--name", "flickr8k-mine", "-S", "dataset.name=flickr8k", "--temp",
    ]  # fmt: skip
    assert "--name" not in run(recipe, "-n", "given")


TEXTS = ["null", "true", "0.1", "it's", 'a "b"', "a\\", "a\\'", "C:\\x\\", "${a}", "\\${a}", "\\\\${a}", "{a\\${"]
TEXTS += ["a,b", "[a]", "{a: 1}", "a=b # c", "my pics (1), [2] {3} é & it's = #1", "choice(a,b)", "*", "~", "@"]


def test_every_value_survives_hydras_grammar(project):
    values = [*TEXTS, "", None, True, 0, -1, 0.00005, 1.5, [], [1, None, *TEXTS], [["a"], ["b,c"]]]
    keys = {f"key{number}": value for number, value in enumerate(values)}
    (project / "values.yaml").write_text(yaml.safe_dump(dict.fromkeys(keys, 0)))
    apply_overrides(project / "values.yaml", [f"{key}={experiment._to_hydra(value)}" for key, value in keys.items()])
    assert experiment.load_yaml(project / "values.yaml") == keys


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("train: {epoch: 3}", "mine.yaml: train.epoch: unknown key"),
        ("train.epochs: 3", "mine.yaml: train.epochs: unknown key; nest"),
        ("train: {epochs: ten}", "mine.yaml: train.epochs: got 'ten'"),
        ("train: 3", "mine.yaml: train: got 3"),
        ("train: {epochs: 1}\ntrain: {seed: 2}", "mine.yaml is not YAML: line 2: .*train"),
        ("train: [", "mine.yaml is not YAML"),
        ("# nothing", "mine.yaml has no params"),
        ("- train", "mine.yaml has no params"),
    ],
)
def test_a_wrong_recipe_is_rejected_before_dvc_starts(run, recipe, expected):
    with pytest.raises(UserError, match=f"^{expected}"):
        run(recipe)


@pytest.mark.parametrize("setting", ["train.epochs=ten", "train.epoch=3", "train.epochs", "dataset.local.images=[a"])
def test_a_wrong_setting_is_rejected_and_params_yaml_is_unchanged(run, project, setting):
    with pytest.raises(UserError, match=r"^-S: .*(train\.epoch|\[a)"):
        run("train: {epochs: 1}", "-S", setting)
    assert (project / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_a_missing_recipe_is_named_with_the_recipes_that_exist(project, monkeypatch):
    (project / "recipes").mkdir()
    (project / "recipes/few.yaml").touch()
    monkeypatch.setattr("sys.argv", ["experiment", "recipes/fwe.yaml"])
    with pytest.raises(UserError, match=r"recipes/fwe\.yaml .*recipes/few\.yaml"):
        experiment.main()


def test_a_name_is_readable_and_new(run):
    def name(*arguments: str) -> str:
        words = run("train: {epochs: 1}", "-S", "dataset.name=flickr8k", *arguments)
        return words[words.index("--name") + 1]

    def refer(ref: str) -> None:
        subprocess.run(["git", "update-ref", ref, "HEAD"], check=True)

    refer("refs/exps/01/23/flickr8k-mine")
    assert name() == "flickr8k-mine-2"
    refer("refs/heads/flickr8k-mine-2")
    assert name() == "flickr8k-mine-3"
    assert name("-S", "train.seed=1,2") == "flickr8k-mine-2"  # DVC makes flickr8k-mine-2-1 and flickr8k-mine-2-2
    refer("refs/exps/01/23/flickr8k-mine-2-1")
    assert name("-S", "train.seed=1,2") == "flickr8k-mine-3"


def test_changes_of_an_earlier_experiment_are_reported(run, project, capsys):
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        params.replace("limit: null", "limit: 10").replace("beam_size: 3", "beam_size: 9")
    )
    run("generate: {beam_size: 5}")
    assert "dataset.limit=10" in (printed := capsys.readouterr().err)
    assert "beam_size" not in printed
    run("generate: {beam_size: 5}", "-S", "dataset.limit=20")
    assert capsys.readouterr().err == ""


RECIPES = sorted((ROOT / "recipes").iterdir())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shipped_recipe_is_valid_and_begins_with_a_comment(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert path.suffix == ".yaml"
    assert path.read_text().startswith("# ")
    assert experiment.recipe_overrides(path)


def test_a_shipped_recipe_gives_the_same_run_after_another_one():
    """Its params are complete, except those of a part that it turns off."""
    content = {path.name: dict(experiment._leaves(experiment.load_yaml(path))) for path in RECIPES}
    switches = {"backbone.tune.": "epochs", "finetune.": "epochs", "generate.consensus.": "neighbours"}
    for name, params in content.items():
        off = tuple(part for part, switch in switches.items() if params[part + switch] == 0)
        left = {key for other in content.values() for key in other if not key.startswith(off)} - params.keys()
        assert left == set(), name
