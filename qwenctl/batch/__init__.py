"""Many prompts in, as many answers out, none lost and none twice.

`pieces`, `json_line`, `forms`, `template` and `inputs` make records of what comes in; `appending`, `journal`, `past`
and `output` keep what goes out; `local` and `endpoint` answer; `run` brings them together.
"""
