"""The manual of the command line, made from the commands themselves, so that it cannot fall behind them.

* `described`: every command as plain data: usage, text, arguments, options
* `roff`: the man page; `markdown`: docs/cli.md
"""
