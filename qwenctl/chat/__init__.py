"""Conversations with a model: on a terminal (`interactive`) and in a pipe (`one_shot`, `pipe`); `saved` stores them."""
