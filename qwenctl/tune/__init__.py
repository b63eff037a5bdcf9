"""Finds settings under which a model is faster on this machine than as it is planned, by measuring.

`candidates` says what is worth a try, `search` tries it within a time limit, `verdict` says whether a difference is
more than noise, `kept` keeps the result for this machine and model and gives it to whoever loads that model.
"""
