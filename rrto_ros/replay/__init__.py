"""The server side of a session: executing batches of calls on a device, in a worker process."""
