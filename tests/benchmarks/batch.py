"""Tokens per CPU second of a batch, against single requests, llama-batched-bench and llama-server.

64 prompts of about 30 tokens with answers of 32, by a mixture-of-experts model with random weights (64 experts, 8 used,
Q4_K_M, 0.35 GB). Every side has its own prompts. Everything but loading is counted: ours is the whole way from a file
of records to a file of answers, in both processes. llama-batched-bench generates no answers: it takes random tokens,
and all of its answers have the same length; its loading is measured by a run with one token. llama-server is called by
our own client, which is not counted. Each side uses its best parallelism of each round. CPU time is measured because
the machine is shared; spinning threads count in it. The shared prefix of 2,000 tokens is evaluated by the toy model,
because the larger model would take too long.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.figures import Figure, at_least, ratio
from tests.benchmarks.inputs import QWENCTL, make_input, make_toy_gguf
from tests.benchmarks.measure import cost_of
from tests.benchmarks.settings import Settings

_PREFIX_WORDS = 1000


def run(settings: Settings) -> Iterator[Figure]:
    """Rounds of all sides in turn, then rounds with the shared prefix."""
    from tests.benchmarks.batch_sides import NUMBERS, batched_bench, best_server, ours, records_of

    model = settings.folder / "model.gguf"
    source = make_input("random-1gb", settings.folder)
    cost_of([QWENCTL, "quantize", source, "--type", "Q4_K_M", "--quiet", "-o", model])
    found: dict[str, list[float]] = {"ours": [], "one": [], "bench": [], "server": []}
    for number in settings.rounds():
        found["one"].append(ours(settings, model, records_of(number, "one"), 1))
        both = [ours(settings, model, records_of(number, f"ours {count}"), count) for count in NUMBERS]
        found["ours"].append(max(both))
        if settings.peer is not None:
            programs = settings.peer.programs
            found["bench"].append(batched_bench(settings, programs, model))
            found["server"].append(best_server(settings, programs, model, number))
    best, unit = found["ours"], "tokens/CPU s"
    yield ratio("64 prompts: prompts and answers", best, found["one"], unit, at_least(1.5), "one after the other")
    if settings.peer is not None:
        yield ratio("the same", best, found["bench"], unit, at_least(0.95), "llama-batched-bench at its best")
        yield ratio("the same", best, found["server"], unit, at_least(1.0), "llama-server -np at its best")
    yield _shared(settings)


def _shared(settings: Settings) -> Figure:
    """64 prompts with 2,000 tokens in common."""
    from tests.benchmarks.batch_sides import ours, records_of

    model = make_toy_gguf(settings.folder)
    shared, apart = [], []
    for number in settings.rounds():
        for into, parallel, shares in ((shared, 16, True), (apart, 1, False)):
            records = records_of(number, "all", f"Round {number}. " + "word " * _PREFIX_WORDS)
            into.append(ours(settings, model, records, parallel, shares=shares, room=4096))
    what, against = "64 prompts with 2,000 tokens in common", "one after the other, each read whole"
    return ratio(what, shared, apart, "tokens/CPU s", at_least(5), against)
