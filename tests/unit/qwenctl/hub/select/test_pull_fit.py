"""Where a model fits: context memory against published figures, the choice of a quantization, and machine memory."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from quantize.gguf_header import parse_leading_metadata, read_header
from quantize.plan import compute_recipe_sizes
from quantize.qwen35.model_config import parse_config
from qwenctl.errors import QwenctlError
from qwenctl.hub.select.fit import PullCandidate, best_fit, fit_candidate
from qwenctl.machine import GgmlDevice, MachineMemory, Memory, read_memory
from qwenctl.models.context_memory import ContextMemory, context_memory_from_config, context_memory_from_metadata
from tests.support import checkpoints
from tests.support.qwen35_layout import PUBLISHED, Layout, config

GB = 10**9
# Bytes of KV cache per token (F16), and MiB of recurrent state per sequence.
CONTEXTS = {
    "397B": (30_720, 186.3), "122B": (24_576, 149.1), "35B": (20_480, 62.8), "27B": (65_536, 149.6),
    "9B": (32_768, 50.25), "4B": (32_768, 50.25), "2B": (12_288, 19.3), "0.8B": (12_288, 19.3),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTEXTS)
def test_context_memory_matches_llama_cpp(name: str) -> None:
    found = context_memory_from_config(parse_config(config(PUBLISHED[name], Layout())))
    assert found.token_bytes == CONTEXTS[name][0]
    assert found.state_bytes / 2**20 == pytest.approx(CONTEXTS[name][1], abs=0.05)
    assert (found.tokens, found.max_tokens) == (32_768, 262_144)


def test_context_memory_from_header_equals_config(toy: Path, toy_gguf: Path) -> None:
    of_file = context_memory_from_metadata(read_header(toy_gguf).metadata)
    assert of_file == context_memory_from_config(parse_config(json.loads((toy / "config.json").read_bytes())))


def test_context_memory_from_leading_metadata_equals_whole_header(toy_gguf: Path) -> None:
    whole = read_header(toy_gguf).metadata
    start = parse_leading_metadata(toy_gguf.name, toy_gguf.read_bytes()[:4096])
    assert 20 < len(start) < len(whole)
    assert {key: whole[key] for key in start} == start
    assert context_memory_from_metadata(start) == context_memory_from_metadata(whole)
    assert context_memory_from_metadata({}) is None


def test_recipe_sizes_are_computed_from_headers_alone(tmp_path: Path) -> None:
    checkpoints.make_sparse(tmp_path, PUBLISHED["397B"], shards=94)
    (tmp_path / "tokenizer.json").unlink()
    found = compute_recipe_sizes(tmp_path, ["Q4_K_M", "IQ2_XXS"])
    # llama-quantize's dry run: 223.54 GiB for the main layers, 3.98 GiB for the MTP block
    assert found.n_bytes["Q4_K_M"] / 2**30 == pytest.approx(223.54 + 3.98, abs=0.02)
    assert "IQ2_XXS" not in found.n_bytes  # needs an importance matrix
    assert found.weights == 396_346_350_336 + 6_595_568_128


# ------------------------------------------------------------------ where it fits, and the best choice

CONTEXT = ContextMemory(20_000, 10**8, 262_144)  # 1.29 GiB for 32,768 tokens
SIZES = {"UD-IQ2_XXS": 11, "Q3_K_M": 16, "IQ4_KSS": 20, "Q4_K_M": 22, "Q8_0": 37, "BF16": 69}


def machine(ram: int, *gpus: int) -> MachineMemory:
    devices = [GgmlDevice(f"CUDA{number}", "GPU", "gpu", gpu * GB, gpu * GB) for number, gpu in enumerate(gpus)]
    cpu = GgmlDevice("CPU", "CPU", "cpu", ram * GB, ram * GB)
    return MachineMemory(Memory(ram * GB, ram * GB), (*devices, cpu))


def candidates() -> list[PullCandidate]:
    return [PullCandidate(label, gigabytes * GB, gigabytes * GB) for label, gigabytes in SIZES.items()]


def places(on: MachineMemory, disk: int = 1000) -> dict[str, str]:
    return {one.label: fit_candidate(one, CONTEXT, on, disk * GB).where for one in candidates()}


def test_fit_names_place_of_each_quant() -> None:
    assert places(machine(16, 24)) == {
        "UD-IQ2_XXS": "GPU", "Q3_K_M": "GPU", "IQ4_KSS": "GPU", "Q4_K_M": "GPU + RAM",
        "Q8_0": "would page from disk", "BF16": "would page from disk",
    }  # fmt: skip
    assert places(machine(32))["Q4_K_M"] == "RAM"
    assert places(machine(32), disk=30)["Q8_0"] == "does not fit"


@pytest.mark.parametrize(
    ("on", "label"),
    [(machine(16), "UD-IQ2_XXS"), (machine(24), "Q3_K_M"), (machine(16, 24), "Q4_K_M"), (machine(16, 24, 24), "Q8_0"),
     (machine(512), "Q8_0")],
)  # fmt: skip
def test_best_fit_is_largest_quant_that_fits(on: MachineMemory, label: str) -> None:
    fits = [fit_candidate(one, CONTEXT, on, 1000 * GB) for one in candidates()]
    best, reason = best_fit("x/y", fits, CONTEXT, on)
    assert best.candidate.label == label
    assert reason.startswith(f"{label} ({SIZES[label]}.0 GB): the largest that fits in ")
    assert reason.endswith(" with 1.29 GiB for 32,768 tokens of context")


def test_best_fit_without_room_is_refused_with_hint() -> None:
    fits = [fit_candidate(one, CONTEXT, machine(8), 1000 * GB) for one in candidates()]
    with pytest.raises(QwenctlError) as refused:
        best_fit("x/y", fits, CONTEXT, machine(8))
    assert (
        refused.value.message
        == "no quantization of x/y fits: even UD-IQ2_XXS needs 11.5 GiB, this machine has 7.45 GiB of RAM"
    )
    assert refused.value.hint == "`qwenctl pull x/y:UD-IQ2_XXS` pulls it anyway: it would page from disk"
    assert refused.value.code == 71


def test_best_fit_is_bf16_when_nothing_else_exists() -> None:
    fits = [fit_candidate(PullCandidate("BF16", 2 * GB, 2 * GB), CONTEXT, machine(8), 1000 * GB)]
    assert best_fit("x/y", fits, CONTEXT, machine(8))[0].candidate.label == "BF16"


# ------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/a/b", "a/b", ("memory.max", "memory.current", "inactive_file")),
        ("4:cpu,memory:/a/b", "memory/a/b", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_memory_is_limited_by_control_group(
    line: str, folder: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(f"9:pids:/x\n{line}\n")
    root = tmp_path / "fs"
    (root / folder).mkdir(parents=True)
    (root / folder / names[0]).write_text("max\n")
    parent = (root / folder).parent
    (parent / names[0]).write_text("3000000000\n")
    (parent / names[1]).write_text("1500000000\n")
    (parent / "memory.stat").write_text(f"anon 5\n{names[2]} 500000000\n")
    found = read_memory(root, tmp_path / "cgroup")
    assert found.total_bytes == 3 * GB
    assert found.available_bytes == min(2 * GB, psutil.virtual_memory().available)
