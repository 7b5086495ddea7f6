"""The subcommands of `katlit`."""
