"""Answers many prompts at once; each record gets exactly one result, even after a crash.

`run` is a whole batch: it answers the records of an `InputSpec` with a `BackendSpec`, and writes the answers to an
`OutputSpec`. There are two backends: `backends.openai_client.EndpointSpec` uses OpenAI-compatible servers, and
`qwenctl.loading.batch_engine.EngineSpec` uses the engine on this machine.

    stats = run(
        input=InputSpec("questions.jsonl"),
        output=OutputSpec("answers.jsonl"),
        backend=EngineSpec(Path("qwen.gguf")),
        on_progress=lambda stats: print(stats.settled, stats.total),
    )

`input` reads records, `backends` answers them, `output` stores the answers, and `runner` connects the three.
"""

from qwenctl.batch.backends.backend import BackendSpec, BackendStats, BatchBackend
from qwenctl.batch.estimate import BatchEstimate, estimate
from qwenctl.batch.records import GenerationParams
from qwenctl.batch.run import run
from qwenctl.batch.runner import BatchStats
from qwenctl.batch.specs import InputSpec, OutputSpec

__all__ = [
    "BackendSpec",
    "BackendStats",
    "BatchBackend",
    "BatchEstimate",
    "BatchStats",
    "GenerationParams",
    "InputSpec",
    "OutputSpec",
    "estimate",
    "run",
]
