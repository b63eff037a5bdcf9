"""The shape of the code: who imports whom, how long things are, and what is documented."""
