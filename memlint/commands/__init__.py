"""The subcommands of ``memlint``, one module each."""
