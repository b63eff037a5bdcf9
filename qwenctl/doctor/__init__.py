"""What is wrong with this machine for running models, and what to do about it.

`graphics` sees GPUs without ggml, `findings` judges, `examination` brings together what is found and what is wrong,
`report` makes rows and JSON of it.
"""
