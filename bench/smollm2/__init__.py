"""A real language model with experts, made of a small dense one: see README.md beside this file."""
