"""Placement: decides which memory holds which tensor, so that decoding is as fast as possible and nothing runs out.

`machine.profile` describes the machine, `tensor_inventory` the model, `constraints` what the user has fixed. They make
a `problem`, for which `layer_split` and `expert_knapsack` find a layout; `planner` turns it into a `plan`, with a
`forecast`, a `memory_breakdown` and `explanations`, or fails with one of the `capacity_errors`. `trial_load` plans for
the local machine, `engine_args` translates a layout for the engine.
"""
