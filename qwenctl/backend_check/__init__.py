"""Whether the installed llama.cpp computes what it should on this machine: a check that every backend must pass.

A wheel may be built for another processor, by a compiler with a fault, or with kernels that have one; it may then
crash, hang or, worse, give wrong answers. `tiny_model` makes a small model of the family; `evaluation` computes with it
in several ways, which must agree, and give the values in `golden`; `worker` is the child process in which that is done,
and `child` listens to it. `check` keeps the result for this build, processor and device (`identity`) and says what may
be used (`results`).
"""
