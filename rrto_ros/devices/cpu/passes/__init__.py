"""Rewrites and analyses between the syntax tree and code generation, one per module."""
