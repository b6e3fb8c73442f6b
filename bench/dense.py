"""What the experts buy: an embedded model beside dense checkpoints trained on the same data.

    python -m allocmoe.mini.train --text TEXT --out runs/dense --model dense --minutes 46
    python bench/dense.py runs/dense/checkpoint --text wikitext2_raw_test.txt --records reports/records/dense.jsonl

Perplexity per token can be compared between models of one tokenizer alone, so another one is refused: train with
the same seed. A record per model and text, the embedded tasks with the first text. The last line of stdout is one
JSON document.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from allocmoe import mini, records, stats
from allocmoe.cli import script
from allocmoe.data.text import windows
from allocmoe.engines.head import window_nll
from allocmoe.errors import AllocMoEError
from allocmoe.evaluate.perplexity import perplexity
from allocmoe.evaluate.tasks.results import scores
from allocmoe.evaluate.tasks.suite import TaskSuite
from allocmoe.records import Record
from allocmoe.spec import fingerprint

WINDOW, BATCH = 256, 8


class Plain:
    """A checkpoint of any architecture, unchanged: as much of an engine as perplexity and tasks ask for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        self.model.eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        log = next((p for p in (folder / "training-log.jsonl", folder.parent / "log.jsonl") if p.exists()), None)
        self.trained = json.loads(log.read_text().splitlines()[-1]) if log else {}

    @torch.inference_mode()
    def nll(self, ids: Tensor) -> Tensor:
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return window_nll(self.model.get_output_embeddings(), hidden, ids)


def main(
    dense: Annotated[list[Path], typer.Argument(help="Checkpoint folders.")],
    text: Annotated[str, typer.Option(help="Real text to read beside the embedded one.")],
    model: str = "mini-olmoe",
    to: Annotated[Path, typer.Option("--records")] = Path("records.jsonl"),
    count: Annotated[int, typer.Option("--windows", help="Of each text.")] = 128,
    items: Annotated[int, typer.Option(help="Per task.")] = 500,
) -> None:
    """Measure all models at full size, compare each dense one with the embedded one, append records."""
    torch.set_num_threads(1)
    made: list[list[Record]] = []
    vocabulary: dict[str, int] = {}
    for folder in (mini.resolve(model), *dense):
        engine = Plain(folder)
        vocabulary = vocabulary or engine.tokenizer.get_vocab()
        if engine.tokenizer.get_vocab() != vocabulary:
            raise AllocMoEError(f"{folder} has another tokenizer than {model}: train it with the same seed")
        made.append([measured(engine, name, count, items * (name != text)) for name in ("mini-test", text)])
        records.append(to, *made[-1])
    table = Table("model", "parameters", "trained on", "generated text", "real text", "accuracy")
    for mine in made:
        ratios = [
            f"{r.metrics['perplexity']:.3f}  {compared(r, first)}" for r, first in zip(mine, made[0], strict=True)
        ]
        trained = mine[0].details["trained"]
        table.add_row(
            mine[0].model, f"{mine[0].details['parameters']:,}",
            f"{trained.get('tokens', 0) / 1e6:.2f} M tokens, {trained.get('minutes', 0):.0f} min", *ratios,
            f"{100 * mine[0].metrics.get('group/mean', float('nan')):.1f} %",
        )  # fmt: skip
    Console(width=170).print(table)
    print(json.dumps([{"model": r.model, "text": r.setup["text"], **r.metrics} for mine in made for r in mine]))


def measured(engine: Plain, text: str, count: int, items: int) -> Record:
    cut = windows(engine.tokenizer, text, count, WINDOW)
    found = perplexity(engine, cut, BATCH)  # type: ignore[arg-type]  # all that it asks for is there
    metrics = {"perplexity": found.value}
    samples: dict[str, Any] = {"nll": list(found.nll), "window_tokens": [WINDOW - 1] * len(cut.ids)}
    setup = {**cut.describe(), "text_batch": BATCH, "engine": "transformers", "dtype": "float32"}
    if items:
        suite = TaskSuite(engine)
        samples["tasks"] = suite.run(items)
        metrics |= scores(samples["tasks"], suite.groups)
        setup |= {"tasks": dict.fromkeys(suite.names, items), "task_items": suite.digest(items)}
    parameters = sum(p.numel() for p in engine.model.parameters())
    architecture = engine.model.config.architectures[0]
    return Record(
        "quality", engine.folder.name if engine.folder.name != "checkpoint" else engine.folder.parent.name,
        fingerprint(engine.folder), None, None, None, setup, metrics, samples=samples,
        details={"parameters": parameters, "architecture": architecture, "trained": engine.trained},
    )  # fmt: skip


def compared(one: Record, first: Record) -> str:
    """Ratio of perplexities to the first model's, paired by window."""
    if one is first:
        return ""
    ratio, low, high = stats.perplexity_ratio(one.samples["nll"], first.samples["nll"], one.samples["window_tokens"])
    return f"{ratio:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    script(main)
