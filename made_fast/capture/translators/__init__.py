"""The table of translators, one function for each ATen operation; those of one kind in each file."""
