"""`medconv bench`: what the product costs on this computer, each figure beside a named baseline of the same run.

`sections` lists what is measured, one module a section; `runner` has each done in a process of its own; `figures` holds
the arithmetic, `tables` and `plots` what a person sees.
"""
