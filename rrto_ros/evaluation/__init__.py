"""Measuring: network namespaces, an emulated robot link, metrics and reports."""
