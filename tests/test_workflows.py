"""The CI recipes: whole, runnable as far as can be told without GitHub, and without a way in for strangers."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml

from allocmoe.cli import app

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))

TEXT, WORDS = {"type": "string", "minLength": 1}, {"type": "object", "additionalProperties": {"type": "string"}}
GRANTS = {"type": "object", "additionalProperties": {"enum": ["read", "write", "none"]}}
STEP = {
    "type": "object",
    "properties": {"name": TEXT, "id": TEXT, "if": TEXT, "run": TEXT, "env": WORDS, "with": WORDS,
                   "uses": {"type": "string", "pattern": r"^[\w.-]+/[\w./-]+@v[0-9]+$"}},
    "additionalProperties": False,
    "oneOf": [{"required": ["run"], "not": {"required": ["with"]}}, {"required": ["uses"]}],
}  # fmt: skip
JOB = {
    "type": "object",
    "properties": {
        "name": TEXT, "if": TEXT, "env": WORDS, "permissions": GRANTS, "needs": TEXT,
        "runs-on": {"anyOf": [TEXT, {"type": "array", "items": TEXT}]},
        "timeout-minutes": {"type": "string", "pattern": "^[0-9]+$"},
        "environment": {"type": "object", "properties": {"name": TEXT, "url": TEXT}, "required": ["name"]},
        "steps": {"type": "array", "items": STEP, "minItems": 1},
    },
    "required": ["runs-on", "timeout-minutes", "steps"],
    "additionalProperties": False,
}  # fmt: skip
WORKFLOW = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "on": {
            "type": "object",
            "properties": {
                "pull_request": {"const": ""},
                "workflow_dispatch": {"const": ""},
                "schedule": {"type": "array", "items": {"properties": {"cron": TEXT}, "additionalProperties": False}},
            },
            "additionalProperties": False,
        },
        "permissions": {**GRANTS, "additionalProperties": {"enum": ["read", "none"]}},
        "concurrency": {"type": "object", "required": ["group", "cancel-in-progress"]},
        "defaults": {"const": {"run": {"shell": "bash"}}},
        "env": WORDS,
        "jobs": {"type": "object", "additionalProperties": JOB, "minProperties": 1},
    },
    "required": ["name", "on", "permissions", "concurrency", "defaults", "jobs"],
    "additionalProperties": False,
}
"""What of GitHub's workflow schema these files use, and stricter: permissions, timeouts and majors are said."""


def read(path: Path) -> dict[str, Any]:
    # every scalar as text: YAML 1.1 would read the key `on` as true
    return yaml.load(path.read_text("utf-8"), yaml.BaseLoader)


def steps() -> list[tuple[str, dict[str, Any]]]:
    found = [(f"{p.stem}/{job}", s) for p in FILES for job, j in read(p)["jobs"].items() for s in j["steps"]]
    return [(where, step) for where, step in found if "run" in step]


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script as words, without assignments before them."""
    lexer = shlex.shlex(script.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();|&"):
            yield words
            words = []
        elif words or not (word in ("do", "then", "else", "if", "!") or re.match(r"\w+=", word)):
            words.append(word)


def called(program: str) -> list[list[str]]:
    found = [words for _, step in steps() for words in commands(step["run"]) if words]
    return [words[1:] for words in found if Path(words[0]).name == program]


def test_the_recipes_are_there():
    assert [p.stem for p in FILES] == ["nightly", "pull-request"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_recipe_is_a_workflow(path: Path):
    jsonschema.validate(read(path), WORKFLOW)
    jobs = read(path)["jobs"]
    assert {job["needs"] for job in jobs.values() if "needs" in job} <= set(jobs)


@pytest.mark.skipif(not shutil.which("actionlint"), reason="actionlint is not installed")
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_actionlint_finds_nothing(path: Path):
    # a GPU runner's own label is not among those that it knows
    ran = subprocess.run(["actionlint", "-ignore", 'label "gpu" is unknown', str(path)], capture_output=True)
    assert ran.returncode == 0, ran.stdout.decode()


@pytest.mark.parametrize("step", [pytest.param(s, id=f"{w}/{s.get('name', s['run'])}") for w, s in steps()])
def test_a_script_parses_and_takes_no_expression(step: dict[str, Any]):
    subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True, capture_output=True)
    # what an expression yields would be run as part of the script: a branch's name can be a command
    assert "${{" not in step["run"]


def test_scripts_are_taken_apart():
    script = (
        'for x in a b; do\n  (cd "$x" && A=1 ../env/bin/allocmoe measure \\\n --starts 2) | tee "a;b"\ndone\nmake test'
    )
    found = [words for words in commands(script) if words]
    wanted = ["for x in a b", "cd $x", "../env/bin/allocmoe measure --starts 2", "tee a;b", "done", "make test"]
    assert [" ".join(words) for words in found] == wanted


def test_the_verbs_and_their_options_exist():
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = called("allocmoe")
    assert {words[0] for words in found} == {"measure", "gate"}
    for verb, *arguments in found:
        assert verb in verbs, f"allocmoe has no verb {verb}"
        command = verbs[verb]
        command.make_parser(command.context_class(command)).parse_args(list(arguments))  # raises on an unknown option


def test_the_make_targets_exist():
    found = called("make")
    assert ["test"] in found
    for words in found:
        subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def test_the_asv_commands_exist():
    asv = pytest.importorskip("asv.commands", reason="asv is not installed")
    parser, _ = asv.make_argparser()
    found = called("asv")
    assert [words[0] for words in found] == ["machine", "run", "publish"]
    for words in found:
        parser.parse_args(words)  # exits on what it does not know
    (same,) = [parser.parse_args(words) for words in found if words[0] == "run"]
    assert same.env_spec == [":same"]
    assert same.set_commit_hash == "$(git rev-parse HEAD)"


def test_files_modules_and_extras_exist():
    tracked = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    for _, step in steps():
        for words in filter(None, commands(step["run"])):
            paths = [w.removeprefix("head/") for w in words]
            named = [w for w in paths if "/" in w and w.split("/")[0] in tracked - {"out"}]
            assert not [w for w in named if not (ROOT / w).exists()], words
            if "-m" in words and Path(words[0]).name.startswith("python"):
                module = words[words.index("-m") + 1]
                assert importlib.util.find_spec(module), f"no module {module}"
            if "--constraint" in words:
                assert (ROOT / words[words.index("--constraint") + 1]).exists()
            if "--editable" in words:
                extras = re.findall(r"[\w-]+", words[words.index("--editable") + 1])
                text = (ROOT / "pyproject.toml").read_text("utf-8")
                assert not [e for e in extras if not re.search(rf"^{e} = \[", text, re.MULTILINE)]


def test_strangers_get_no_rights_and_no_runner_of_ours():
    for path in FILES:
        flow = read(path)
        hosted = [job for job in flow["jobs"].values() if job["runs-on"] == "ubuntu-latest"]
        if "pull_request" in flow["on"]:
            assert len(hosted) == len(flow["jobs"])
            assert not [job for job in flow["jobs"].values() if "permissions" in job]
        writing = [j for j in flow["jobs"].values() if "write" in j.get("permissions", {}).values()]
        assert all(job in hosted and not [s for s in job["steps"] if "run" in s] for job in writing)
        for job in flow["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] == "false"


def test_no_index_is_named():
    for path in FILES:
        text = path.read_text("utf-8")
        assert "://" not in text
        assert read(path).get("env", {}).get("PIP_EXTRA_INDEX_URL", "${{ vars.PYTORCH_CPU_INDEX }}") == (
            "${{ vars.PYTORCH_CPU_INDEX }}"
        )
