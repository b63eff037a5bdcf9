"""Sizes as text: all options parse them alike, and formatted sizes parse back."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.core import TyperGroup

from quantize.errors import BadOption
from quantize.formatting import format_bytes, format_memory, parse_bytes
from qwenctl import cli
from tests.support.cli_runner import outcome

PREFIXES = "KMGT"
UNITS = {prefix + "B": 1000**power for power, prefix in enumerate(PREFIXES, 1)}
UNITS |= {prefix + suffix: 1024**power for power, prefix in enumerate(PREFIXES, 1) for suffix in ("", "i", "iB")}
UNITS |= {"": 1, "B": 1}
EXAMPLE = "24G or 24GiB is 24 * 1024^3 bytes, 24GB is 24 * 1000^3; units: K, M, G, T"
TEXTS = st.builds("{}{}{}".format, st.integers(1, 9999), st.sampled_from(["", " "]), st.sampled_from(sorted(UNITS)))


def size_options(group: TyperGroup | Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every option that takes a size, with the words that call its command."""
    options = []
    for name, command in group.commands.items():
        options += [((*path, name), option) for option in command.params if "SIZE" in str(option.metavar)]
        options += size_options(command, (*path, name)) if isinstance(command, TyperGroup) else []
    return options


ROOT = typer.main.get_command(cli.app)
OPTIONS = size_options(ROOT)


def value_of(path: tuple[str, ...], option: Any, text: str) -> int:
    """The bytes that the command gets for `text`."""
    value = option.process_value(typer.Context(ROOT, info_name=path[-1]), text)
    (size,) = value if isinstance(value, tuple) else (value,)
    assert isinstance(size, int)
    return size


@given(st.integers(1, 9999), st.sampled_from(sorted(UNITS)), st.booleans(), st.sampled_from(["", " "]))
def test_parse_bytes_uses_the_units_of_coreutils(number: int, unit: str, lower: bool, blank: str) -> None:
    text = f"{number}{blank}{unit.lower() if lower else unit}"
    assert parse_bytes(text) == number * UNITS[unit]


@given(st.integers(0, 10**9), st.integers(0, 999), st.sampled_from(sorted(UNITS)))
def test_parse_bytes_reads_decimals_exactly_and_rounds_down(whole: int, thousandths: int, unit: str) -> None:
    expected = (whole * 1000 + thousandths) * UNITS[unit] // 1000
    if 0 < expected < 2**63:
        assert parse_bytes(f"{whole}.{thousandths:03}{unit}") == expected


@given(st.integers(1, 10**14), st.sampled_from([format_bytes, format_memory]))
def test_formatted_size_parses_back(n_bytes: int, format_size: Any) -> None:
    text = format_size(n_bytes).replace(",", "")
    assert parse_bytes(text) == pytest.approx(n_bytes, rel=0.006)
    assert format_size(parse_bytes(text)).replace(",", "") == text


@given(st.integers(1, 10**14), st.integers(1, 10**14), st.sampled_from([format_bytes, format_memory]))
def test_formatted_sizes_have_the_order_of_their_bytes(one: int, other: int, format_size: Any) -> None:
    less, more = sorted((one, other))
    assert parse_bytes(format_size(less).replace(",", "")) <= parse_bytes(format_size(more).replace(",", ""))


@given(st.sampled_from(sorted(UNITS)), st.integers(1, 9999), st.integers(1, 9999))
def test_parsed_sizes_have_the_order_of_their_numbers(unit: str, one: int, other: int) -> None:
    less, more = sorted((one, other))
    assert parse_bytes(f"{less}{unit}") <= parse_bytes(f"{more}{unit}")


def test_memory_has_binary_units_and_files_have_decimal_units() -> None:
    sizes = (0, 1023, 1024, 24 << 30, 1_000 << 20, 1_536 << 30)
    assert [format_memory(size) for size in sizes] == [
        "0 B", "1023 B", "1.00 KiB", "24.0 GiB", "1000 MiB", "1,536 GiB",
    ]  # fmt: skip
    assert [format_bytes(size) for size in sizes[:4]] == ["0 B", "1.02 kB", "1.02 kB", "25.8 GB"]


def test_all_size_options_are_covered() -> None:
    names = {option.opts[-1] for _, option in OPTIONS}
    assert names == {"--fit-target", "--snapshot-ram", "--gpu-memory", "--ram", "--spool", "--split-max-size"}


@given(TEXTS.filter(lambda text: not text.strip().isdecimal()))
def test_all_size_options_parse_alike(text: str) -> None:
    assert {value_of(path, option, text) for path, option in OPTIONS} == {parse_bytes(text)}


@given(st.integers(2**20, 2**40))
def test_large_bare_number_is_bytes_except_mib_for_fit_target(number: int) -> None:
    for path, option in OPTIONS:
        unit = 1 << 20 if option.opts[-1] == "--fit-target" else 1
        assert value_of(path, option, str(number)) == number * unit


@given(st.integers(1, 2**20 - 1) | st.sampled_from(["24", "24.5", " 8 "]))
def test_small_bare_number_is_no_size_in_bytes(number: int | str) -> None:
    for path, option in OPTIONS:
        if option.opts[-1] != "--fit-target":
            with pytest.raises(typer.BadParameter, match="has no unit, and would be bytes"):
                value_of(path, option, str(number))


def test_small_bare_number_is_refused_with_units() -> None:
    assert outcome("plan", "x.gguf", "--ram", "24") == (
        "invalid value for '--ram': '24' has no unit, and would be bytes", "24G, 24M or 24B", 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "1e9", "1,5G", "1.G", ".5G", "24X", "24GBB", "24 G B", "٣G", "inf", "0x10", "2i", "1" * 41]
)
def test_malformed_size_is_refused(text: str) -> None:
    with pytest.raises(BadOption) as refused:
        parse_bytes(text)
    assert (refused.value.message, refused.value.hint) == (f"'{text}' is not a size", EXAMPLE)


@pytest.mark.parametrize(
    ("text", "reason"), [("0", "too small"), ("0.4B", "too small"), ("9" * 19, "too large"), ("9999999T", "too large")]
)
def test_out_of_range_size_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadOption, match=f"^'{text}' is {reason} a size$"):
        parse_bytes(text)


@given(st.text(max_size=50))
def test_random_text_is_a_size_or_a_bad_option(text: str) -> None:
    try:
        size = parse_bytes(text)
    except BadOption:
        return
    assert 0 < size < 2**63


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("chat", "-m", "x", "--snapshot-ram", "much"), "--snapshot-ram"),
        (("chat", "-m", "x", "--fit-target", "2G,much"), "--fit-target"),
        (("plan", "x", "--ram", "much"), "--ram"),
        (("plan", "x", "--gpu-memory", "24G,much"), "--gpu-memory"),
        (("pull", "x", "--spool", "much"), "--spool"),
    ],
)
def test_malformed_size_error_names_the_option(arguments: tuple[str, ...], option: str) -> None:
    assert outcome(*arguments) == (f"invalid value for '{option}': 'much' is not a size", EXAMPLE, 2)
