"""The command line: one file per command, which parses, calls and prints.

A command's docstring is its help text, and its parameters are described by their `help`. Commands import what they run on use,
so that `whybox --help` loads no framework.
"""
