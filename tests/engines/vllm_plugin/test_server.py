"""A real `vllm serve` on the embedded model, asked over HTTP with the openai client."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allocmoe.methods import allocate
from allocmoe.mini import resolve
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec, fingerprint

pytestmark = pytest.mark.vllm
MODEL = resolve("mini-olmoe")
GUIDE = Path(__file__).parents[3] / "docs" / "serve.md"
PROMPT = "Tom was hungry. They went to the school. Tom wanted to"
FLAGS = ("--served-model-name", "mini", "--no-enable-prefix-caching")
SAME = ("--dtype", "float32", "--max-model-len", "512")  # else what it computes could not be compared


def printed(words: str) -> str:
    """The guide's shell lines with these words in them, as they are."""
    page = GUIDE.read_text("utf-8")
    (found,) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if words in block)
    return found.rstrip()


def plan(method: str, budget: int) -> Plan:
    return allocate(method, MoESpec.from_folder(MODEL), fingerprint(MODEL), budget)


@contextmanager
def serving(
    log: Path, *options: str, command: tuple[str, ...] = (), flags: bool = True, **environment: str
) -> Iterator[Any]:
    """An openai client of a server that stops afterwards; its output is in `log`, in whose folder it runs."""
    import openai

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = command or (str(Path(sys.executable).with_name("vllm")), "serve", str(MODEL))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
    memory = {"VLLM_CPU_KVCACHE_SPACE": "1"} if flags else {}
    settings = {**inherited, "OMP_NUM_THREADS": "1", **memory, **environment}
    with log.open("w") as output:
        process = subprocess.Popen(
            [*start, "--host", "127.0.0.1", "--port", str(port), *SAME, *(FLAGS if flags else ()), *options],
            env=settings, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent,
        )  # fmt: skip
    try:
        for _ in range(1500):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        else:
            pytest.fail(f"no answer: {log.read_text()[-3000:]}")
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def asked(client: Any) -> tuple[str, list[float], list[float]]:
    """The text, its log-probabilities and the prompt's."""
    answer = client.completions.create(
        model="mini", prompt=PROMPT, max_tokens=12, temperature=0, logprobs=1, extra_body={"prompt_logprobs": 0}
    )
    choice = answer.choices[0]
    given = [next(iter(entry.values()))["logprob"] for entry in choice.prompt_logprobs[1:]]
    return choice.text, choice.logprobs.token_logprobs, given


@pytest.fixture(scope="module")
def in_process() -> Iterator[Any]:
    from allocmoe.engines.vllm.engine import VLLMEngine

    engine = VLLMEngine.load(MODEL, max_model_len=512)
    yield engine
    engine.close()


def direct(engine: Any, wanted: Plan | None, prompt: str = PROMPT) -> tuple[str, list[float], list[float]]:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=12, logprobs=1, prompt_logprobs=0)
    with engine.using(wanted):
        (output,) = engine.llm.generate([prompt], sampling, use_tqdm=False)
    done = output.outputs[0]
    given = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    chosen = zip(done.token_ids, done.logprobs, strict=True)
    return done.text, [c[t].logprob for t, c in chosen], [c[t].logprob for t, c in given]


def same(one: tuple[str, list[float], list[float]], two: tuple[str, list[float], list[float]]) -> None:
    assert one[0] == two[0]
    assert one[1] == pytest.approx(two[1], abs=1e-4)
    assert one[2] == pytest.approx(two[2], abs=1e-4)


def test_a_server_with_a_plan_answers_as_the_engine_does(in_process: Any, tmp_path: Path) -> None:
    wanted = plan("alloc-t", 64)
    wanted.save(tmp_path / "plan.json")
    config = json.dumps({"allocmoe": {"plan": str(tmp_path / "plan.json"), "count": True}})
    log = tmp_path / "log"
    with serving(log, "--enforce-eager", "--additional-config", config, VLLM_SERVER_DEV_MODE="1") as client:
        found = asked(client)
        request = urllib.request.Request(
            f"{str(client.base_url).removesuffix('v1/')}collective_rpc",
            data=json.dumps({"method": "allocmoe_spent"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        reported = json.load(urllib.request.urlopen(request, timeout=30))["results"][0]
    same(found, direct(in_process, wanted))
    assert abs(found[2][5] - direct(in_process, None)[2][5]) > 1e-4, "the plan changed nothing"
    assert f"allocmoe: alloc-t at 64 of 128, plan {wanted.digest}; 16 of 16 MoE layers patched" in log.read_text()
    assert reported["per_token"] == reported["budget"] == 64
    assert reported["plan"] == wanted.digest
    assert [sum(layer) for layer in reported["load"]] == [4 * tokens for tokens in reported["tokens"]]
    assert reported["tokens"][0] > len(found[2])


@pytest.mark.slow
def test_a_server_without_a_plan_is_stock_vllm(in_process: Any, tmp_path: Path) -> None:
    """To the last bit."""
    with serving(tmp_path / "with", "--enforce-eager") as client:
        found = asked(client)
    module = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL))
    with serving(tmp_path / "stock", "--enforce-eager", command=module, VLLM_PLUGINS="") as client:
        stock = asked(client)
    assert found == stock
    assert "allocmoe: " not in (tmp_path / "with").read_text()
    same(found, direct(in_process, None))


def test_the_guides_server_answers_the_guides_request(in_process: Any, tmp_path: Path) -> None:
    """Its lines as printed, on a machine that does something else too; compiled, as vLLM is by default."""
    wanted = plan("uniform", 80)
    wanted.save(tmp_path / "plan.json")
    lines = ("sh", "-ec", f'{printed("vllm serve")} "$@"', "sh")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    request = shlex.split(printed("/v1/completions"))
    question = json.loads(request[request.index("-d") + 1])
    with serving(tmp_path / "log", command=lines, flags=False, MODEL=str(MODEL), PATH=path,
                 VLLM_CACHE_ROOT=str(tmp_path / "cache")) as client:  # fmt: skip
        found = asked(client)
        answer = client.completions.create(**question)
    same(found, direct(in_process, wanted))
    assert answer.choices[0].text == direct(in_process, wanted, question["prompt"])[0]
    assert "allocmoe: uniform at 80 of 128" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_compiled_server_takes_its_plan_from_the_environment(in_process: Any, tmp_path: Path) -> None:
    wanted = plan("uniform", 80)
    wanted.save(tmp_path / "plan.json")
    with serving(tmp_path / "log", ALLOCMOE_PLAN=str(tmp_path / "plan.json"),
                 VLLM_CACHE_ROOT=str(tmp_path / "cache")) as client:  # fmt: skip
        found = asked(client)
    same(found, direct(in_process, wanted))
    assert "allocmoe: uniform at 80 of 128" in (tmp_path / "log").read_text()


def test_a_plan_for_another_model_stops_the_server(tmp_path: Path) -> None:
    document = plan("uniform", 64).to_dict() | {"fingerprint": "another"}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ALLOCMOE_PLAN": str(tmp_path / "plan.json")}
    done = subprocess.run(
        [Path(sys.executable).with_name("vllm"), "serve", MODEL],
        capture_output=True, text=True, timeout=300, env=variables,
    )  # fmt: skip
    assert done.returncode != 0
    assert "this plan is for another model: its weights another" in done.stdout + done.stderr
