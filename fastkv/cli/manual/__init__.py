"""Pages that are made from the code, so that they cannot fall behind it: the man page, docs/cli.md, the settings.

* `described`: every command as plain data: usage, text, arguments, options
* `roff`: the man page; `markdown`: docs/cli.md; `configuration`: the tables of docs/configuration.md
"""
