"""Find settings that make a model faster on this machine than its plan, by measurement.

`candidates` lists settings to try, `search` measures them within a time limit and decides whether a difference is more
than noise, and `store` saves the result for this machine and model, for later loads.
"""
