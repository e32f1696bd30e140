"""Record and replay: plans, calls matched with them, references, speculation."""
