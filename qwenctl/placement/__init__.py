"""Placement: which memory holds which tensor, so that decoding is as fast as can be and nothing runs out.

`hardware` is what a machine has, `inventory` what a model has, `wishes` what a person has fixed. They make a `problem`,
for which `splits` and `filling` find a layout; `planner` makes a `plan` of it, with a `forecast`, `accounts` and
`reasons`. `trial` plans for the machine that is here, `opening` loads by a plan, `picture` shows one.
"""
