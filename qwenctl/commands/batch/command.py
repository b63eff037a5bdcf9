"""`qwenctl batch`: turns a file of prompts into a file of answers.

Options come in and become the values that `qwenctl.batch.run` takes; its results are shown. Nothing heavy is imported
before a batch runs.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from qwenctl.commands.batch import batch_options as own
from qwenctl.commands.options import common as options
from qwenctl.commands.options.given import (
    given_options,
    refuse_beside,
    refuse_empty,
    refuse_ineffective,
    refuse_without,
)
from qwenctl.commands.options.load_options import LOAD_PARAMETERS, with_load_options
from qwenctl.commands.options.template_options import with_template_options
from qwenctl.commands.options.vision_options import VISION_PARAMETERS, MediaOptions, with_vision_options
from qwenctl.errors import QwenctlError
from qwenctl.files.paths import missing_folder, parse_output
from qwenctl.placement.constraints import LoadRequest
from qwenctl.protocol.load import TemplateOverride

if TYPE_CHECKING:
    from qwenctl.batch.backends.openai_client import EndpointSpec
    from qwenctl.batch.input.readers import Kind
    from qwenctl.loading.batch_engine import EngineSpec

_Value = TypeVar("_Value")
# Parameters of the engine on this machine, which a server does not get.
_OF_THE_ENGINE = LOAD_PARAMETERS | VISION_PARAMETERS | {"share_prefix", "private_urls"}


# fmt: off
@with_load_options
@with_template_options
@with_vision_options
def batch_command(
    context: typer.Context,
    source: own.Input = "-", output: own.Output = "-", model: options.Model = None,
    lines: own.Lines = False, null: own.Null = False, files: own.Files = False, csv: own.Csv = False,
    prompt: own.Prompt = None, system: own.System = None, prefix: options.PrefixOption = None,
    keep: own.KeepFields = None, style: own.Format = "qwenctl", select: own.Select = None,
    order: own.OrderOption = "input", parallel: own.Parallel = 0, share_prefix: own.Share = True,
    limit: own.Limit = None, sample: own.Sample = None, dry_run: own.DryRun = False, overwrite: own.Overwrite = False,
    force_resume: own.ForceResume = False, resume: own.OldResume = "auto", retry_errors: own.RetryErrors = False,
    endpoint: own.Endpoint = None, api_key: own.ApiKey = "", timeout: own.Timeout = 600, patience: own.Patience = 300,
    plot: own.Plot = None, json: own.JsonSummary = False, quiet: own.Quiet = False,
    load: LoadRequest = LoadRequest(),  # noqa: B008 - frozen
    template: TemplateOverride = TemplateOverride(),  # noqa: B008 - frozen
    predict: options.Predict = -1, think: options.Think = True, think_budget: options.ThinkBudget = -1,
    json_schema: options.JsonSchema = None, grammar: options.GrammarFile = None,
    temp: options.Temperature = None, top_k: options.TopK = None, top_p: options.TopP = None,
    min_p: options.MinP = None, presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None, repeat_penalty: options.RepeatPenalty = None,
    repeat_last_n: options.RepeatLastN = None, seed: options.Seed = None, private_urls: own.AllowPrivateUrl = False,
    media: MediaOptions = MediaOptions(),  # noqa: B008 - frozen
) -> None:
    """Answer a file of prompts, many at once.

    IN has JSON lines, text (--lines), names of files (--files) or CSV (--csv). A JSON record is {"id": …, "prompt": …}
    or {"messages": […]}, and can have its own max_tokens, temperature, think, json_schema, tools, …; records of
    OpenAI's batch API are read too. Images are parts of messages: {"type": "image_url", "image_url": {"url":
    "photo.png"}}.

    Run the same command again to resume, even after a crash or a power cut. Records that fail are listed in
    OUT.errors.jsonl, and the exit code is 3; all others are answered.
    """
    from qwenctl import batch
    from qwenctl.commands.batch import reporting

    reporting.check_plot(plot)
    _check_given(context, has_endpoint=bool(endpoint), has_seed=seed is not None, thinks=think)
    kind = _input_kind(lines=lines, files=files, csv=csv, null=null)
    _check_effect(context, has_media=kind == "jsonl" and prompt is None)
    sampling = _given(
        temperature=temp, top_k=top_k, top_p=top_p, min_p=min_p, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, repeat_penalty=repeat_penalty, repeat_last_n=repeat_last_n)
    constraints = options.answer_constraints(grammar, json_schema)
    params = batch.GenerationParams(
        think, think_budget, predict, sampling, *constraints, template_variables=template.variables)
    prefix_text, prefix_state = _load_prefix(prefix)
    records = batch.InputSpec(
        source=source, kind=kind, prompt=prompt, system=system, prefix=prefix_text, passthrough=tuple(keep or ()),
        null=null, limit=limit, sample=sample, seed=seed or 0)
    answers = batch.OutputSpec(
        path=own.answers_path(output, source), order=order, style=style, select=select or "",
        retry_errors=retry_errors, overwrite=overwrite, resume="force" if force_resume else resume,
        recorded_as=_given(grammar=grammar, json_schema=json_schema),
    )
    if endpoint:
        backend: batch.BackendSpec = _endpoint_spec(
            template, urls=tuple(endpoint), model=str(model or ""), parallel=parallel, timeout_s=timeout,
            patience_s=patience, api_key=api_key,
        )
    else:
        backend = _engine_spec(
            quiet=quiet, model=model, load=replace(load, template=TemplateOverride(template.source)),
            parallel=parallel, share_prefixes=share_prefix, prefix_state=prefix_state, mmproj=media.mmproj,
            vision=media.vision, allow_urls=media.allows_urls or private_urls, allow_private_urls=private_urls,
        )
    if dry_run:
        estimate = batch.estimate(input=records, output=answers, backend=backend, params=params)
        reporting.show_estimate(estimate, as_json=json)
        return
    with missing_folder(parse_output(output)), reporting.show_progress(quiet=quiet) as report:
        stats = batch.run(input=records, output=answers, backend=backend, params=params, on_progress=report)
    reporting.show_summary(stats, answers, plot, as_json=json, quiet=quiet)
# fmt: on


def _check_given(context: typer.Context, *, has_endpoint: bool, has_seed: bool, thinks: bool) -> None:
    """Raise QwenctlError if an option was given that says nothing or has no effect."""
    refuse_empty(context)
    if has_endpoint:
        refuse_beside(context, "--endpoint", _OF_THE_ENGINE)
    else:
        refuse_without(context, "--endpoint", ("api_key", "timeout", "patience"))
    if not thinks:
        refuse_beside(context, "--no-think", ("think_budget",))
    if not has_seed and "seed" in given_options(context):
        raise QwenctlError("--seed -1: a batch needs a seed, so that it can be resumed", "--seed 1")


def _check_effect(context: typer.Context, *, has_media: bool) -> None:
    """Raise QwenctlError if an option was given that has no effect on these records, or on what is written of them."""
    if not has_media:
        hint = "give messages with images as JSON lines"
        media = VISION_PARAMETERS | {"private_urls"}
        refuse_ineffective(given_options(context), media, "on prompts of text only", hint)
    if context.params["overwrite"]:
        refuse_beside(context, "--overwrite", ("force_resume", "retry_errors"))
    if context.params["select"] is not None:
        refuse_beside(context, "--select", ("keep",))


def _given(**values: _Value | None) -> dict[str, _Value]:
    """The options that were given, by name."""
    return {name: value for name, value in values.items() if value is not None}


def _endpoint_spec(template: TemplateOverride, **fields: Any) -> EndpointSpec:
    """The servers to use. Raises QwenctlError if there is a template, which they could not be given."""
    from qwenctl.batch.backends.openai_client import EndpointSpec

    if template.source:
        raise QwenctlError("--chat-template and --endpoint cannot be used together", "a server has its own")
    return EndpointSpec(**fields)


def _engine_spec(*, quiet: bool, **fields: Any) -> EngineSpec:
    """The engine to start; its loading is shown unless `quiet`."""
    from qwenctl.commands.batch import reporting
    from qwenctl.loading.batch_engine import EngineSpec
    from qwenctl.loading.load_engine import wait_for_load

    return EngineSpec(follow=wait_for_load if quiet else reporting.show_loading, **fields)


def _input_kind(*, lines: bool, files: bool, csv: bool, null: bool) -> Kind:
    """The input format. Raises QwenctlError if options name more than one."""
    named: dict[Kind, bool] = {"lines": lines, "files": files, "csv": csv}
    kinds = [kind for kind, is_it in named.items() if is_it]
    if len(kinds) > 1:
        both = " and ".join(f"--{kind}" for kind in kinds)
        raise QwenctlError(f"{both} cannot be used together", "IN has only one format")
    return kinds[0] if kinds else "lines" if null else "jsonl"


def _load_prefix(given: str | None) -> tuple[str | None, Path | None]:
    """The text of `--prefix`, and the file for its evaluated state in batches; None for what there is not.

    Only saved prefixes, which have a name, have a file. Raises QwenctlError if there is no such prefix.
    """
    if given is None:
        return None, None
    from qwenctl.chat.saved.prefixes import find_prefix
    from qwenctl.chat.saved.sessions import SessionStore
    from qwenctl.files.paths import prefixes_folder

    prefix = find_prefix(SessionStore(prefixes_folder(), "prefix"), given, "", None)
    if not prefix.name:
        return prefix.text, None
    file = prefix.store.state_file(prefix.name)
    return prefix.text, file.with_name(f"{file.name}.batch")
