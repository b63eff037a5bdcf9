"""Chat templates that want all time or all memory, made at random, and what must hold for each.

A template ends within its limits: with a prompt, or refused for a reason of one line. However it nests, allocates,
calls itself or catches errors, the process that asks for the prompt keeps its memory.
"""

from __future__ import annotations

import random
import resource

from qwenctl.engine.prompt.render_marked import RenderRequest
from qwenctl.engine.prompt.template_process import MAX_SECONDS, TemplateProcess
from qwenctl.engine.request_errors import RequestError

_REQUEST = RenderRequest(
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi " * 50}],
    [{"type": "function", "function": {"name": "f", "description": "It does it.", "parameters": {}}}],
    {"enable_thinking": True},
)
_SPECIAL = ("<|im_start|>", "<|im_end|>")
_BIG = ("9", "99", "99999", "10 ** 8", "2 ** 31", "2 ** 64", "7 ** 64")
_TEXTS = (
    "'a'", "'ab' * N", "messages[1].content", "messages | tojson", "range(N) | list", "'%Nd' % 1", "ns.x",
    "[ns.x, ns.x]", "namespace(a=ns)", "dict(a=ns.x)", "lipsum(n=N)", "cycler(1, 2)", "joiner(ns.x)", "{ns.x: 1}",
    "strftime_now('%NY')",
)  # fmt: skip
_FILTERS = (
    "upper", "string", "length", "list", "reverse | list", "sort", "unique | list", "tojson", "tojson(indent=N)",
    "center(N)", "indent(N)", "wordwrap(1)", "wordcount", "urlize", "replace('a', 'aaaaaaaaaa')", "replace('', ns.x)",
    "join(ns.x)", "batch(N, 1) | list", "slice(N) | list", "groupby(0)", "truncate(N)", "format(1)", "e", "striptags",
    "map('upper') | list", "select('in', ns.x) | list", "sum(start=ns.x)", "default('x')", "xmlattr", "pprint", "title",
    "filesizeformat", "int(base=N)", "round(N)", "urlencode", "dictsort", "random", "max", "attr('x')",
)  # fmt: skip
_TESTS = ("is defined", "in ns.x", "== ns.x", "is sameas ns.x", "is iterable", "< ns.x", "is divisibleby 7")


def make_template(chance: random.Random) -> str:
    """The source of a template."""
    parts = [_part(chance, chance.randint(0, 4)) for _ in range(chance.randint(1, 4))]
    macro = f"{{% macro m(a=1) %}}{_part(chance, 2)}{{{{ m(a) }}}}{{% endmacro %}}" if chance.random() < 0.3 else ""
    return f"{{% set ns = namespace(x='aaaaaaaa') %}}{macro}{''.join(parts)}"


def _value(chance: random.Random) -> str:
    text = chance.choice(_TEXTS).replace("N", chance.choice(_BIG))
    for _ in range(chance.choice([0, 1, 1, 2, 3, 50])):
        text = f"({text}) | {chance.choice(_FILTERS).replace('N', chance.choice(_BIG))}"
    if chance.random() < 0.2:
        text = f" {chance.choice('*+~')} ".join([f"({text})"] * chance.choice([2, 20]))
    return f"{text} {chance.choice(_TESTS)}" if chance.random() < 0.2 else text


def _part(chance: random.Random, depth: int) -> str:
    """A part with `depth` blocks in one another."""
    inner = _part(chance, depth - 1) if depth else f"{{{{ {_value(chance)} }}}}"
    count = chance.choice(["9", "99", "99999"])
    return chance.choice(
        [
            f"{{% for a in range({count}) %}}{inner}{{% endfor %}}",
            f"{{% for a in ({_value(chance)}) recursive %}}{inner}{{{{ loop([a, a]) }}}}{{% endfor %}}",
            f"{{% for a in range({count}) %}}{{% set ns.x = {_value(chance)} %}}{inner}{{% endfor %}}",
            f"{{% set ns.x = [ns.x] * {count} %}}{inner}",
            f"{{% set ns.x = ns.x ~ {_value(chance)} %}}{inner}",
            f"{{% set b %}}{inner}{{% endset %}}{{{{ b * {count} }}}}",
            f"{{% filter {chance.choice(_FILTERS).replace('N', count)} %}}{inner}{{% endfilter %}}",
            f"{{% if ({_value(chance)}) is defined %}}{inner}{{% endif %}}",
            f"{{{{ (({_value(chance)}) | default(none)) | default({_value(chance)}) }}}}{inner}",
            f"{{% generation %}}{inner}{{% endgeneration %}}" * chance.choice([1, 3]),
            "{% if 1 %}" * 20 + inner + "{% endif %}" * 20,
            f"{{% if m is defined %}}{{{{ m() }}}}{{% endif %}}{inner}",
            inner * chance.choice([1, 2, 30]),
        ]
    )


def try_template(source: str) -> str:
    """Compile and render a template; what did not hold, or ""."""
    before, own = _used(resource.RUSAGE_CHILDREN), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        process = TemplateProcess(source, _SPECIAL)
        process.render(_REQUEST)
        del process  # which ends it
    except RequestError as error:
        if error.failed.kind not in ("template", "setting") or "\n" in error.failed.message:
            return f"refused as {error.failed}"
    used, grown = _used(resource.RUSAGE_CHILDREN) - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own
    if used > 2 * (MAX_SECONDS + 1) + 2:  # compiled and rendered, after the start of the process
        return f"it took {used:.1f} s"
    return f"the process that asks grew by {grown >> 10} MiB" if grown > 200 << 10 else ""


def _used(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def run_templates(count: int, seed: int) -> list[str]:
    """Try `count` templates; what did not hold, one line each, with the seed that repeats it."""
    found = ((number, try_template(make_template(random.Random(number)))) for number in range(seed, seed + count))
    return [f"--seed {number} --count 1: {problem}" for number, problem in found if problem]
