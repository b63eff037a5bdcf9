"""A few of the hostile templates of `tests.faults.templates`, which renders any number of them by hand."""

from __future__ import annotations

import random

from tests.support.hostile_templates import make_template, run_templates, try_template


def test_hostile_templates_end_within_their_limits() -> None:
    assert run_templates(4, seed=10_000) == []


def test_templates_differ_and_are_repeated_by_their_number() -> None:
    made = [make_template(random.Random(number)) for number in range(50)]
    assert len(set(made)) == 50
    assert made == [make_template(random.Random(number)) for number in range(50)]


def test_harmless_template_holds() -> None:
    assert try_template("{% for message in messages %}{{ message.content }}{% endfor %}{{ tools }}") == ""
