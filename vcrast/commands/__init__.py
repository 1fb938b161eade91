"""The verbs of `vcrast`, one file each: `add_parser(subparsers)` declares it, `run(arguments)` does it."""
