"""Many prompts in, as many answers out, none lost and none twice.

`run` is a whole batch: it answers the records of an `InputSpec` by a `BackendSpec`, and writes them to an `OutputSpec`.
Of these there are two: `backends.openai_client.EndpointSpec` asks OpenAI-compatible servers, and the engine on this
machine is `qwenctl.loading.batch_engine.EngineSpec`.

    stats = run(
        input=InputSpec("questions.jsonl"),
        output=OutputSpec("answers.jsonl"),
        backend=EngineSpec(Path("qwen.gguf")),
        on_progress=lambda stats: print(stats.settled, stats.total),
    )

`input` makes records of what comes in, `backends` answers them, `output` keeps what goes out, and `runner` brings the
three together.
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
