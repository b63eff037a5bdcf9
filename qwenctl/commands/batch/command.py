"""`qwenctl batch`: a file of prompts becomes a file of answers.

Options come in; they become the values that `batch_job` works with. Nothing is decided here, and nothing heavy is
imported before a batch runs.
"""

from __future__ import annotations

from dataclasses import replace

from qwenctl.commands.batch import batch_options as own
from qwenctl.commands.batch.batch_request import BatchOptions
from qwenctl.commands.options import common as options
from qwenctl.commands.options.load_options import with_load_options
from qwenctl.commands.options.vision_options import MediaOptions, with_vision_options
from qwenctl.placement.constraints import LoadRequest
from qwenctl.placement.engine_args import load_params


# fmt: off
@with_load_options
@with_vision_options
def batch_command(
    source: own.Input = "-", output: own.Output = "-", model: options.Model = None,
    lines: own.Lines = False, null: own.Null = False, files: own.Files = False, csv: own.Csv = False,
    prompt: own.Prompt = None, system: own.System = None, prefix: options.PrefixOption = None,
    keep: own.KeepFields = None,
    style: own.Format = "qwenctl", select: own.Select = None, order: own.OrderOption = "input",
    parallel: own.Parallel = 0, share: own.Share = True,
    limit: own.Limit = None, sample: own.Sample = None, dry_run: own.DryRun = False,
    resume: own.Resume = "auto", retry_errors: own.RetryErrors = False, overwrite: own.Overwrite = False,
    endpoint: own.Endpoint = None, api_key: own.ApiKey = "", timeout: own.Timeout = 600, patience: own.Patience = 300,
    plot: own.Plot = None, json: own.JsonSummary = False, quiet: own.Quiet = False,
    asked: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    predict: options.Predict = -1,
    think: options.Think = True, think_budget: options.ThinkBudget = -1,
    json_schema: options.JsonSchema = None, grammar: options.GrammarFile = None,
    temp: options.Temperature = None, top_k: options.TopK = None, top_p: options.TopP = None,
    min_p: options.MinP = None, presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None, repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None, seed: options.Seed = None,
    pictures: MediaOptions = MediaOptions(),  # noqa: B008 - frozen
) -> None:
    """Answer a file of prompts: JSON lines, text (--lines), files (--files) or CSV (--csv).

    A record is {"id": …, "prompt": …} or {"messages": […]}, with its own max_tokens, temperature, think, json_schema,
    tools, … if it has any; or one of OpenAI's batches. Pictures are parts of messages: {"type": "image_url",
    "image_url": {"url": "photo.png"}}. After any end, a crash or a power cut included, the same command goes on where
    it was. Records that fail are listed in OUT.errors.jsonl, with exit code 3; the others are done.
    """
    from qwenctl.commands.batch.batch_job import run_batch

    given = {
        "temperature": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p, "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty, "repeat_penalty": repeat_penalty, "repeat_last_n": repeat_last_n,
    }
    wanted = {
        "think": think, "think_budget": think_budget, "max_tokens": predict, "grammar": grammar,
        "json_schema": json_schema, "sampling": {name: value for name, value in given.items() if value is not None},
    }
    settings = load_params(asked.wishes)
    engine = replace(settings, batch_tokens=settings.micro_batch_tokens)
    kinds = [name for name, is_it in (("lines", lines), ("files", files), ("csv", csv)) if is_it]
    kind = "+".join(kinds) or ("lines" if null else "jsonl")
    run_batch(
        BatchOptions(
            source, output, model, kind, null, prompt, system, prefix, tuple(keep or ()), style, select or "", order,
            parallel, seed or 0, limit, sample, tuple(endpoint or ()), api_key, timeout, patience, share,
            resume == "force", retry_errors, overwrite, dry_run, plot, json, quiet, wanted, engine, pictures, asked,
        )
    )
# fmt: on
