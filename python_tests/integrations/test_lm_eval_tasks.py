"""Whole tasks of the harness, offline, on questions about the demonstration's world: HFLM's table and ours."""

import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from eft_ext.demo import model_path
from eft_ext.demo.notes import read_world
from eft_ext.demo.world import World

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import eft_ext.integrations.lm_eval  # noqa: F401
from eft_ext import EmulatedModel
from python_tests.helpers.one_thread import one_thread as one_thread
from python_tests.integrations.plain_mixture import PlainMixture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TRIO = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}
FOLDERS = {name: str(model_path(folder)) for name, folder in TRIO.items()}
QUESTIONS = 24
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
  cache_dir: {cache}
output_type: {kind}
test_split: test
doc_to_text: {text}
doc_to_target: {target}
{more}
metadata: {{version: 1}}
"""
TASKS = {
    "world_choice": {
        "kind": "multiple_choice",
        "text": "'{{question}}'",
        "target": "answer",
        "more": "doc_to_choice: choices\nmetric_list: [{metric: acc}, {metric: acc_norm}]",
    },
    "world_rolling": {
        "kind": "loglikelihood_rolling",
        "text": "''",
        "target": "'{{question}} {{choices[answer]}}. Have a nice day.'",
        "more": "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]",
    },
    "world_answers": {
        "kind": "generate_until",
        "text": "'{{question}}'",
        "target": "' Thank you for asking! The {{noun}} is {{choices[answer]}}'",
        "more": "generation_kwargs: {until: ['.'], max_gen_toks: 24}\nmetric_list: [{metric: exact_match}]",
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with the tasks and their questions, four answers to each."""
    folder = tmp_path_factory.mktemp("tasks")
    world, draw = World(*read_world("models", model_path("large-base").parent)), random.Random(1)
    lines = []
    for question in world.questions("tuning")[:QUESTIONS]:
        pool = [value for value in world.pools[question.fact.attribute.value] if value != question.answer]
        choices = [question.answer, *draw.sample(pool, 3)]
        draw.shuffle(choices)
        about = {"question": question.prompt, "noun": question.fact.attribute.name, "choices": choices}
        lines.append(json.dumps({**about, "answer": choices.index(question.answer)}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    for name, own in TASKS.items():
        text = TASK.format(name=name, data=folder / "data.jsonl", cache=folder / "cache", **own)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def expected(tasks):
    """The results of HFLM over three models in plain torch."""
    model = PlainMixture([AutoModelForCausalLM.from_pretrained(folder).eval() for folder in FOLDERS.values()])
    return evaluated(tasks, HFLM(model, tokenizer=FOLDERS["large"], batch_size=4))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The trio as one checkpoint."""
    folder = tmp_path_factory.mktemp("packed")
    model = EmulatedModel.from_pretrained(**FOLDERS, quiet=True)
    model.causal_lm().save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def evaluated(tasks, model, **options):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, **options)
    return found["results"]


def assert_same_table(found, expected):
    names = {"acc,none", "acc_norm,none", "word_perplexity,none", "byte_perplexity,none", "bits_per_byte,none"}
    seen = set()
    for task in TASKS:
        for name, value in expected[task].items():
            if name in names | {"exact_match,none"}:
                assert found[task][name] == pytest.approx(value, rel=1e-4), (task, name)
                seen.add(name)
    assert seen == names | {"exact_match,none"}
    assert found["world_choice"]["acc,none"] > 0.5
    assert found["world_answers"]["exact_match,none"] > 0.5


@pytest.mark.parametrize("batch_size", [1, 8, "auto"])
def test_simple_evaluate(tasks, expected, batch_size):
    arguments = ",".join(f"{name}={folder}" for name, folder in FOLDERS.items()) + ",dtype=float32,quiet=True"
    assert_same_table(evaluated(tasks, "eft", model_args=arguments, batch_size=batch_size, device="cpu"), expected)


@pytest.mark.parametrize("model", ["eft", "hf"])
def test_a_checkpoint(tasks, expected, packed, model):
    arguments = f"pretrained={packed},trust_remote_code=True"
    assert_same_table(evaluated(tasks, model, model_args=arguments, batch_size=8, device="cpu"), expected)


def test_the_command(tasks, expected, tmp_path):
    out = tmp_path / "out"
    arguments = ",".join(f"{name}={folder}" for name, folder in FOLDERS.items())
    command = [sys.executable, "-m", "eft_ext.integrations.lm_eval", "--model", "eft", "--model_args", arguments]
    command += ["--tasks", ",".join(TASKS), "--include_path", str(tasks), "--batch_size", "4", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--output_path", str(out)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (written,) = out.rglob("results_*.json")
    assert_same_table(json.loads(written.read_text())["results"], expected)
    assert json.loads(written.read_text())["config"]["eft_method"] == "UpScale(beta=1)"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_an_error_of_the_command_is_one_line(monkeypatch, capsys):
    def wrong():
        raise ValueError("tuned: expected a hub id or a folder, got None")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", wrong)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("eft_ext.integrations.lm_eval", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "eft: tuned: expected a hub id or a folder, got None\n"
