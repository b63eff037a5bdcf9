"""The schema of what both formats of a record can ask for: sampling, limits, functions, constraints of the answer.

The names are those of OpenAI's API and of llama.cpp. What asks for nothing is taken; what cannot be done is an error.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qwenctl.batch.input.strict_json import StrictModel
from qwenctl.models.sampling import SAMPLING_OPTIONS
from qwenctl.protocol.messages import OWN_TEMPLATE_VARIABLES
from qwenctl.tools.call_grammar import ToolChoice

SAMPLING_FIELDS = tuple(option.field for option in SAMPLING_OPTIONS.values())
# How much a model may think for each effort, in tokens; -1: as much as it likes.
EFFORTS = {"none": 0, "minimal": 0, "low": 1024, "medium": 8192, "high": -1, "xhigh": -1, "max": -1}
_MAX_ANSWERS = 128  # as at OpenAI


def _ranged(field: str) -> Any:
    """The limits of a sampling parameter: those of its command-line option."""
    option = next(option for option in SAMPLING_OPTIONS.values() if option.field == field)
    return Field(ge=option.minimum, le=option.maximum, allow_inf_nan=False)


class _Sampled(StrictModel):
    """The sampling parameters, with llama.cpp's names."""

    temperature: Annotated[float, _ranged("temperature")] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None  # -1 is vLLM's word for 0: all tokens
    top_p: Annotated[float, _ranged("top_p")] | None = None
    min_p: Annotated[float, _ranged("min_p")] | None = None
    presence_penalty: Annotated[float, _ranged("presence_penalty")] | None = None
    frequency_penalty: Annotated[float, _ranged("frequency_penalty")] | None = None
    repeat_penalty: Annotated[float, _ranged("repeat_penalty")] | None = None
    repetition_penalty: Annotated[float, _ranged("repeat_penalty")] | None = None
    repeat_last_n: Annotated[int, _ranged("repeat_last_n")] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None  # as at OpenAI; -1 is a seed as any other

    def sampling(self) -> dict[str, float | int]:
        """The parameters that the record has, by field name."""
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        if self.repeat_penalty is None:  # vLLM's name for it
            given["repeat_penalty"] = self.repetition_penalty
        if self.top_k == -1:
            given["top_k"] = 0
        return {name: value for name, value in given.items() if value is not None}


class _Tool(StrictModel):
    type: Literal["function"]
    function: dict[str, Any]

    @field_validator("function")
    @classmethod
    def _check_function(cls, given: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(given.get("name"), str) or not given["name"].strip():
            raise ValueError("a function needs a name")
        if not isinstance(given.get("parameters") or {}, dict):
            raise ValueError("parameters must be a JSON schema")
        return {key: value for key, value in given.items() if key != "parameters" or value is not None}


class _Named(StrictModel):
    name: Annotated[str, Field(min_length=1)]


class _NamedTool(StrictModel):
    type: Literal["function"]
    function: _Named


class _NamedSchema(StrictModel):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class _Format(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> _Format:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema without a schema")
        return self

    def text(self) -> str:
        """The JSON schema that it stands for; "" for plain text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema.schema_)
        return '{"type": "object"}' if self.type == "json_object" else ""


class _TemplateValues(BaseModel):
    """Variables for the chat template, by any name but those that the request itself sets."""

    model_config = ConfigDict(extra="allow", strict=True)
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _check_names(self) -> _TemplateValues:
        taken = next((name for name in self.variables() if name in OWN_TEMPLATE_VARIABLES), None)
        if taken is not None:
            raise ValueError(f"{taken} cannot be set")
        return self

    def variables(self) -> dict[str, Any]:
        """All but `enable_thinking`, which is a parameter of its own."""
        return dict(self.model_extra or {})


_TokenId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_Stop = Annotated[str, Field(min_length=1)]


class RequestForm(_Sampled):
    """What a record can ask for, whatever its format."""

    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=-1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(min_length=1)] | None = None
    n: Annotated[int, Field(ge=1, le=_MAX_ANSWERS)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: _Format | None = None
    tools: Annotated[list[_Tool], Field(min_length=1)] | None = None
    tool_choice: Literal["auto", "none", "required"] | _NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: _TemplateValues | None = None
    enable_thinking: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: dict[_TokenId, _Bias] | None = None
    stream: Literal[False] | None = None
    stream_options: dict[str, Any] | None = None  # of no effect without a stream

    def given_params(self) -> dict[str, Any]:
        """The parameters that it names, as fields of `GenerationParams`; None for others. Raises ValueError."""
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        budget = EFFORTS[self.reasoning_effort] if self.reasoning_effort is not None else None
        values = self.chat_template_kwargs or _TemplateValues()
        thinks = values.enable_thinking if values.enable_thinking is not None else self.enable_thinking
        if self.enable_thinking not in (None, thinks):
            raise ValueError("enable_thinking is given twice, with different values")
        most = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return {
            "think": thinks if thinks is not None else budget != 0 if budget is not None else None,
            "think_budget": budget or None,
            "max_tokens": most,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop) if self.stop else None,
            "answers": self.n,
            # Plain text is what an answer is anyway: it takes the schema of the batch from nobody.
            "json_schema": (self.response_format.text() or None) if self.response_format is not None else None,
            "tools": self._chosen_tools(),
            "template_variables": values.variables() or None,
            "tool_choice": self._choice(),
            "logit_bias": tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()) or None,
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }

    def _chosen_tools(self) -> tuple[dict[str, Any], ...] | None:
        if self.tool_choice == "none":
            return ()
        return tuple(tool.model_dump() for tool in self.tools) if self.tools is not None else None

    def _choice(self) -> ToolChoice | None:
        """Which functions must be called; None if the model may choose. Raises ValueError for one that is not there."""
        is_required, name = self.tool_choice == "required", ""
        if isinstance(self.tool_choice, _NamedTool):
            name = self.tool_choice.function.name
        if (is_required or name) and not self.tools:
            raise ValueError("tool_choice names a function, but there are no tools")
        names = [tool.function["name"] for tool in self.tools or ()]
        if name and name not in names:
            raise ValueError(f"tool_choice: no function is named {name[:60]!r}; available: {', '.join(names)}")
        if not self.tools or self.tool_choice == "none":
            return None
        choice = ToolChoice(is_required, name, self.parallel_tool_calls is not False)
        return choice if choice != ToolChoice() else None
