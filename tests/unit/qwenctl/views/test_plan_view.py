"""A plan as text: bars with letters, a legend of what is in them, the table, the forecast and the reasons."""

from __future__ import annotations

import io
from dataclasses import replace

from qwenctl.placement.plan import Plan
from qwenctl.views.plan import print_placement
from tests.support.example_plan import EXAMPLE_PLAN


def lines(plan: Plan) -> list[str]:
    """The text without a terminal, which has 100 columns."""
    stream = io.StringIO()
    print_placement(plan, stream)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_bars_have_letters_in_proportion_to_bytes() -> None:
    ram, gpu = lines(EXAMPLE_PLAN)[2:4]
    assert ram.startswith("RAM    16.0 GiB of 64.0 GiB")
    assert gpu.startswith("CUDA0  20.0 GiB of 32.0 GiB")
    assert ram[-68:] == "#" * 17 + "X" * 17 + "." * 34
    assert gpu[-68:] == "A" * 17 + "X" * 17 + "K" * 8 + "." * 26


def test_legend_has_only_what_is_in_the_bars() -> None:
    legend = lines(EXAMPLE_PLAN)[4]
    assert [item.strip() for item in legend.split("   ")] == [
        "A attention", "X routed experts", "K KV cache", "# used by others", ". free",
    ]  # fmt: skip


def test_forecast_and_settings_are_told_as_options() -> None:
    text = lines(EXAMPLE_PLAN)
    assert "forecast: 50.0 tokens/s (40.0 with a full context), limited by RAM bandwidth" in text
    assert any("limited by copies over PCIe; loading: 12 s from a typical NVMe disk" in line for line in text)
    assert any(line.startswith("settings: -c 32768 -t 8 -b 2048 -ub 512 -ctk f16") for line in text)


def test_estimated_buffers_are_announced_until_they_are_measured() -> None:
    note = "buffer sizes are estimates; they are measured when the file and the GPU are available"
    assert note in lines(EXAMPLE_PLAN)
    assert note not in lines(replace(EXAMPLE_PLAN, exact=True))
    assert note not in lines(replace(EXAMPLE_PLAN, memories=EXAMPLE_PLAN.memories[:1]))


def test_model_name_and_reasons_cannot_color_the_terminal() -> None:
    text = "\n".join(lines(replace(EXAMPLE_PLAN, model="\x1b[31mred", reasons=("\x1b[2Jgone",))))
    assert "\x1b" not in text
    assert "- " in text


def test_no_line_is_wider_than_a_hundred_columns() -> None:
    assert max(map(len, lines(EXAMPLE_PLAN))) <= 100
