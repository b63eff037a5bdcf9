"""Repositories of the Hub: names, listings and quantizations."""
