"""The GPU measurements can be run: their Python parts are tested on the device of an RPC server on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from quantize.plan import QuantizeOptions, make_plan
from tests.gpu import measure, model
from tests.support.qwen35_layout import Model
from tests.support.rpc_server import rpc_server

SCRIPT = Path(__file__).with_name("run.sh")


def test_gpu_script_is_valid_and_reports_a_missing_driver(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    (tmp_path / "nproc").symlink_to("/usr/bin/nproc")
    done = subprocess.run(
        ["/bin/bash", str(SCRIPT)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "gpu: error: no nvidia-smi: is there an NVIDIA GPU and its driver?\n")


def test_layer_count_fits_the_free_disk_and_memory() -> None:
    layers = [model.fitting_layers(disk << 30, ram << 30) for disk, ram in ((500, 500), (64, 128), (500, 8), (20, 500))]
    assert layers == sorted(layers, reverse=True)
    assert (layers[0], {count % 4 for count in layers}) == (40, {0})
    with pytest.raises(SystemExit):
        model.fitting_layers(1 << 30, 1 << 30)


def test_random_checkpoint_can_be_quantized(tmp_path: Path) -> None:
    model.make(tmp_path / "made", Model(layers=4, mtp=False, vision=None), tokens=1984)
    assert len(list((tmp_path / "made").glob("*.safetensors"))) == 5
    make_plan(tmp_path / "made", tmp_path / "made.gguf", QuantizeOptions("Q4_K_M", vision=False))


@pytest.mark.slow
def test_plan_load_and_sweep_are_compared(toy_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rpc_server(64 << 20) as endpoint:
        counts = "--cap 30M --context 512 --tokens 2 --repetitions 1 --threads 1 --step 4".split()
        measure.main([str(toy_gguf), "--rpc", endpoint, *counts])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1].split(":")[0].split(",")[0] for row in rows] == [
        "CPU",
        "RPC0",
        "tokens/s measured and forecast",
        "tokens/s",
    ]
    assert rows[-1][1].startswith("tokens/s, and of the best of 2 --n-cpu-moe")
    planned = [float(row[4]) for row in rows[:2]]
    assert all(abs(ratio - 1) <= 0.03 for ratio in planned)
