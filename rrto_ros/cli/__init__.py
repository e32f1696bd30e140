"""The `rrto` command. Modules are imported when their command runs, so that help is instant."""
