"""Experiments that answer what is often asked of a first MADE; each module is one command with one figure."""
