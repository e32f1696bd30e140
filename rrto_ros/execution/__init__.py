"""The worker process: executes a session's calls on a device; knows neither robot nor edge."""
