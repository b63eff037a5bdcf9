"""Whether the installed llama.cpp computes correctly on this machine: a check that every backend must pass.

A wheel may be built for another CPU, by a faulty compiler, or with faulty kernels; it may then crash, hang or, worse,
give wrong answers. `tiny_model` makes a small model of the family; `evaluation` computes with it in several ways, which
must agree with each other and with known values; `check_worker` is the child process in which that happens, and `child`
runs it. `check` caches the result for this build, CPU and device (`identity`), and `results` says what may be used.
"""
