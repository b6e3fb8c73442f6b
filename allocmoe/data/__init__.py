"""Texts as windows of tokens."""
