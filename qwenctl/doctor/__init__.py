"""Find what is wrong with this machine for running models, and say what to do about it.

`checks` inspects the machine, `findings` judges what was found, and `report` formats both as rows and JSON.
"""
