"""What vLLM's engine config becomes: untouched without a plan, and with one the plan's document in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocmoe import methods, mini
from allocmoe.engines.vllm import plugin
from allocmoe.engines.vllm.settings import KEY, VARIABLE, Settings
from allocmoe.errors import AllocMoEError
from allocmoe.plan import Plan
from allocmoe.spec import MoESpec, fingerprint

pytestmark = pytest.mark.vllm
MODEL = mini.resolve("mini-olmoe")
Configured = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def made() -> Plan:
    return methods.allocate("alloc-t", MoESpec.from_folder(MODEL), fingerprint(MODEL), 64)


@pytest.fixture
def configure() -> Configured:
    from vllm.engine.arg_utils import EngineArgs

    plugin.register()

    def create(**options: Any) -> Any:
        known = {"model": str(MODEL), "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 64}
        return EngineArgs(**known | options).create_engine_config()

    return create


def test_registering_twice_wraps_once() -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.worker.worker_base import WorkerBase

    plugin.register()
    places = ((EngineArgs, "create_engine_config"), (WorkerBase, "__init__"))
    before = [getattr(owner, name) for owner, name in places]
    plugin.register()
    for (owner, name), wrapped in zip(places, before, strict=True):
        assert getattr(owner, name) is wrapped
        assert wrapped.__name__ == name
        assert not hasattr(wrapped.allocmoe_stock, "allocmoe_stock")
        assert wrapped.allocmoe_stock.__module__ == owner.__module__


def test_vllm_finds_it_by_itself() -> None:
    """Else `vllm serve` would know nothing of plans."""
    from vllm.plugins import DEFAULT_PLUGINS_GROUP, load_plugins_by_group

    assert load_plugins_by_group(DEFAULT_PLUGINS_GROUP)["allocmoe"] is plugin.register


def test_without_a_plan_nothing_changes(configure: Configured) -> None:
    from vllm.engine.arg_utils import EngineArgs

    stock = EngineArgs.create_engine_config.allocmoe_stock
    for options in ({}, {"additional_config": {"other": 1}}, {"worker_extension_cls": "a.B"}):
        known = {"model": str(MODEL), "dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 64}
        config, untouched = configure(**options), stock(EngineArgs(**known | options))
        assert config.additional_config == untouched.additional_config == options.get("additional_config", {})
        assert config.parallel_config.worker_extension_cls == options.get("worker_extension_cls", "")
        assert config.kernel_config == untouched.kernel_config
        assert config.compute_hash() == untouched.compute_hash()


def test_the_plan_itself_is_in_the_config(configure: Configured, made: Plan, tmp_path: Path) -> None:
    """A worker on another machine has no such file, and the file may be gone when it starts."""
    file = tmp_path / "plan.json"
    made.save(file)
    config = configure(additional_config={"other": 1, KEY: {"plan": str(file), "count": True}})
    file.unlink()
    assert config.additional_config["other"] == 1
    sent = json.loads(json.dumps(config.additional_config))
    assert str(tmp_path) not in json.dumps(sent)
    assert sent[KEY]["plan"] == made.to_dict()
    assert Settings.of(sent) == Settings(made, count=True)


def test_the_users_own_config_is_left_alone(configure: Configured, made: Plan, tmp_path: Path) -> None:
    made.save(tmp_path / "plan.json")
    mine = {KEY: {"plan": str(tmp_path / "plan.json")}}
    configure(additional_config=mine)
    assert mine == {KEY: {"plan": str(tmp_path / "plan.json")}}


def test_configuring_twice_from_the_same_arguments(configure: Configured, made: Plan, tmp_path: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    made.save(tmp_path / "plan.json")
    asked = {KEY: {"plan": str(tmp_path / "plan.json")}}
    args = EngineArgs(model=str(MODEL), dtype="float32", skip_tokenizer_init=True, additional_config=asked)
    first, second = args.create_engine_config(), args.create_engine_config()
    assert first.additional_config == second.additional_config == {KEY: Settings(made).to_dict()}


def test_plans_do_not_share_compiled_graphs(configure: Configured, made: Plan) -> None:
    """vLLM's compile cache goes by this hash."""
    spec, mark = MoESpec.from_folder(MODEL), fingerprint(MODEL)
    other = methods.allocate("alloc-t", spec, mark, 80)
    same_budget = methods.allocate("uniform", spec, mark, 64)
    hashes = [configure().compute_hash()]
    hashes += [
        configure(additional_config={KEY: {"plan": p.to_dict()}}).compute_hash() for p in (made, other, same_budget)
    ]
    assert len(set(hashes)) == 4
    assert hashes[1] == configure(additional_config={KEY: {"plan": made.to_dict()}}).compute_hash()


def test_the_worker_is_extended_unless_the_user_extends_it(configure: Configured, made: Plan) -> None:
    from allocmoe.engines.vllm.worker import PlanWorker

    globals().update(Extended=type("Extended", (PlanWorker,), {}), Foreign=type("Foreign", (), {}))
    asked = {KEY: {"plan": made.to_dict()}}
    assert configure(additional_config=asked).parallel_config.worker_extension_cls == plugin.EXTENSION
    own = f"{__name__}.Extended"
    assert configure(additional_config=asked, worker_extension_cls=own).parallel_config.worker_extension_cls == own
    with pytest.raises(AllocMoEError, match="derive it from"):
        configure(additional_config=asked, worker_extension_cls=f"{__name__}.Foreign")
    for missing in ("no.such.Module", f"{__name__}.NoSuchClass", "not a name"):
        with pytest.raises(AllocMoEError, match=f"{missing} cannot be imported"):
            configure(additional_config=asked, worker_extension_cls=missing)
    assert configure(additional_config={KEY: {"live": True}}).parallel_config.worker_extension_cls == plugin.EXTENSION


def test_the_extension_adds_to_vllms_worker_and_hides_nothing() -> None:
    """vLLM refuses an extension whose names are already a worker's."""
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.worker.cpu_worker import CPUWorker

    extension = resolve_obj_by_qualname(plugin.EXTENSION)
    added = {name for name in vars(extension) if not name.startswith("__")}
    assert {"allocmoe_apply", "allocmoe_count", "allocmoe_spent"} <= added
    # an engine of this process with a plan has mixed the extension into vLLM's class for good
    theirs = {name for base in CPUWorker.__mro__ if base is not extension for name in vars(base)}
    assert not added & theirs


@pytest.mark.parametrize(("method", "warned"), [("alloc-t", True), ("oea", True), ("uniform", False)])
def test_drafts_that_take_budget_are_warned_of(
    configure: Configured, method: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with drafts, and only under rules that share a budget among tokens."""
    plan, lines = methods.allocate(method, MoESpec.from_folder(MODEL), fingerprint(MODEL), 64), []
    logger = logging.getLogger("vllm.allocmoe")  # itself, for vLLM sets handlers and levels anew with every config
    monkeypatch.setattr(logger, "warning", lambda text, *values: lines.append(text % values))
    configure(additional_config={KEY: {"plan": plan.to_dict()}})
    assert not lines
    drafts = {"method": "ngram", "num_speculative_tokens": 3}
    configure(additional_config={KEY: {"plan": plan.to_dict()}}, speculative_config=drafts)
    assert len(lines) == warned
    assert all(plan.token_rule in line and "draft tokens" in line for line in lines)


def test_the_variable_does_the_same(configure: Configured, made: Plan, tmp_path: Path, monkeypatch: Any) -> None:
    made.save(tmp_path / "plan.json")
    by_config = configure(additional_config={KEY: {"plan": str(tmp_path / "plan.json")}})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plan.json"))
    by_variable = configure()
    assert by_variable.additional_config == by_config.additional_config
    assert by_variable.compute_hash() == by_config.compute_hash()
    assert by_variable.parallel_config.worker_extension_cls == plugin.EXTENSION
    other = methods.allocate("uniform", MoESpec.from_folder(MODEL), fingerprint(MODEL), 80)
    both = configure(additional_config={KEY: {"plan": other.to_dict()}})
    assert both.additional_config == {KEY: Settings(other).to_dict()}


def test_a_faulty_plan_stops_the_engine_before_it_starts(configure: Configured, tmp_path: Path) -> None:
    with pytest.raises(AllocMoEError, match="none"):
        configure(additional_config={KEY: {"plan": str(tmp_path / "none.json")}})


def test_a_model_served_without_a_plan_is_not_patched(configure: Configured) -> None:
    """In a real engine: the worker, its routers and its kernels are vLLM's own."""
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    from allocmoe.engines.vllm.engine import VLLMEngine

    engine = VLLMEngine.load(MODEL, additional_config={}, skip_tokenizer_init=True, max_model_len=64)
    try:
        worker = engine.llm.llm_engine.model_executor.driver_worker.worker
        assert not hasattr(worker, "allocmoe")
        assert "load_model" not in vars(worker)
        runners = [m for m in worker.model_runner.get_model().modules() if isinstance(m, MoERunner)]
        assert len(runners) == engine.spec.layers
        for runner in runners:
            assert type(runner.router) is CPURouter
            assert "apply" not in vars(runner.routed_experts.quant_method.moe_kernel.fused_experts)
    finally:
        engine.close()
