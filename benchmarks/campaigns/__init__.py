"""Campaigns: long searches for values that are wrong, lost or never come, each a command with figures."""
