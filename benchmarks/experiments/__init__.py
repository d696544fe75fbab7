"""Experiments that answer what is often asked of a first MADE; each is a command with one figure."""
