"""Fields of a record that ask for nothing, and those of other programs that ask for something.

A name and a value come in, and whether they ask for nothing goes out. Clients write the defaults of their own server
into each request: those change no answer here. The same fields with other values must not be taken for a user's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Parameters of other engines that qwenctl lacks, and the values with which they ask for nothing; null always does.
# Names that could as well be those of a user's own data ("prefix") are not among them.
_FOREIGN: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,), "add_special_tokens": (False,), "allowed_token_ids": ([],), "best_of": (1,),
    "continue_final_message": (False,), "detokenize": (True,), "do_sample": (True,), "dry_multiplier": (0,),
    "dynatemp_range": (0,), "early_stopping": (False,), "extra_body": ({},), "guided_choice": (), "guided_grammar": (),
    "guided_json": (), "guided_regex": (), "ignore_eos": (False,), "include_reasoning": (True,),
    "include_stop_str_in_output": (False,), "length_penalty": (1,), "max_new_tokens": (), "min_new_tokens": (0,),
    "min_tokens": (0,), "mirostat": (0,), "n_predict": (), "n_probs": (0,), "num_beams": (1,), "num_predict": (),
    "priority": (0,), "prompt_logprobs": (0,), "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False), "stop_token_ids": ([],), "structured_outputs": (),
    "thinking_budget": (), "truncate_prompt_tokens": (-1,), "typical_p": (1,), "use_beam_search": (False,),
    "xtc_probability": (0,),
}  # fmt: skip
# Constraints of an answer, empty or not, that must never be dropped where a form does not know them.
_CONSTRAINTS = frozenset({"grammar", "json_schema", "regex", "ebnf"})


def asks_for_nothing(name: str, value: object) -> bool:
    """Whether a field that a form does not know asks for nothing: null, false, empty, or another program's default."""
    if value is None:
        return True
    if name in _FOREIGN:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in _FOREIGN[name])
    return not value and name not in _CONSTRAINTS and (isinstance(value, bool) or not isinstance(value, int | float))


def is_foreign(name: str, value: object) -> bool:
    """Whether a field is another program's parameter that asks for something that qwenctl cannot do."""
    return name in _FOREIGN and not asks_for_nothing(name, value)
