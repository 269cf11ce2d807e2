"""GitHub's files: workflows that call make targets which exist, forms with the fields that GitHub demands."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
FILES = [*sorted(GITHUB.rglob("*.yml")), ROOT / ".pre-commit-config.yaml"]
FORMS = sorted(path for path in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if path.name != "config.yml")
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.M))
# By kind: what `attributes` has to hold.
FIELDS = {
    "markdown": {"value"},
    "input": {"label"},
    "textarea": {"label"},
    "dropdown": {"label", "options"},
    "checkboxes": {"label", "options"},
}


class Loader(yaml.SafeLoader):
    """YAML as GitHub reads it: a key that is given twice is an error, and `on` is a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice among {keys}"
        return super().construct_mapping(node, deep)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in kinds if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader)


def name_of(path):
    return str(path.relative_to(ROOT))


def steps():
    """Workflow, job and step of every step of every workflow."""
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            for step in job["steps"]:
                yield path.name, name, step


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_is_yaml(path):
    assert isinstance(read(path), dict)


def test_a_key_that_is_given_twice_is_found(tmp_path):
    (tmp_path / "twice.yml").write_text("a: 1\na: 2\n")
    with pytest.raises(AssertionError, match="a key twice"):
        read(tmp_path / "twice.yml")


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_a_form_has_what_github_demands(path):
    form = read(path)
    assert set(form) <= {"name", "description", "title", "labels", "assignees", "projects", "type", "body"}
    assert all(isinstance(form[key], str) and form[key].strip() for key in ("name", "description"))
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert ids, "a form asks for something"
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert set(part) <= {"type", "id", "attributes", "validations"}
        assert all(part["attributes"][key] for key in FIELDS[part["type"]])
        assert re.fullmatch(r"[\w-]+", part.get("id", "markdown"))
        options = part["attributes"].get("options", [])
        texts = [option["label"] if part["type"] == "checkboxes" else option for option in options]
        assert all(isinstance(text, str) for text in texts)
        assert len(texts) == len(set(texts))
        assert all(isinstance(value, bool) for value in part.get("validations", {}).values())


def test_a_report_shows_the_environment():
    for name in ("bug", "wrong_tokens"):
        asked = {part.get("id"): part for part in read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")["body"]}
        assert "`eft env`" in asked["env"]["attributes"]["description"]
        assert asked["env"]["validations"] == {"required": True}


def test_workflows_run_make_targets_alone():
    """People call the same targets, so a failure can be repeated without GitHub."""
    called = set()
    for workflow, job, step in steps():
        if "run" in step:
            found = re.fullmatch(r'make ([a-z-]+)( [A-Z_]+=(\w+|"[\w. ]+"))*', step["run"])
            assert found, f"{workflow}, {job}: expected one make target, got {step['run']!r}"
            called.add(found[1])
    assert called == {"check", "test", "test-all", "docs", "wheel", "gpu-all"}
    assert called <= TARGETS, f"not in the Makefile: {sorted(called - TARGETS)}"


def test_workflows_may_read_and_nothing_else():
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        assert "concurrency" in workflow
        assert "pull_request_target" not in workflow["on"], "it would give a stranger's code our token"
        assert "secrets." not in path.read_text(encoding="utf-8")
        for name, job in workflow["jobs"].items():
            assert "permissions" not in job, name
            assert isinstance(job["timeout-minutes"], int)


def test_actions_are_pinned_by_their_major_version():
    used = {step["uses"] for *_, step in steps() if "uses" in step}
    assert used
    assert {action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)} == set()


def test_a_strangers_code_does_not_run_on_our_machines():
    for path in WORKFLOWS:
        for name, job in read(path)["jobs"].items():
            if "self-hosted" in job["runs-on"]:
                assert "vars.GPU_RUNNER == 'true'" in job["if"], name
                assert "github.event_name != 'pull_request'" in job["if"], name


def test_commits_are_checked_with_the_tools_of_make_check():
    """Formatters repair there, and complain in `make check`."""
    hooks = {hook["entry"].split()[0] for repo in read(FILES[-1])["repos"] for hook in repo["hooks"]}
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.M)
    assert recipe
    assert hooks == set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1]))
