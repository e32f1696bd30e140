"""Record and replay: plans learnt and kept, walks over them, references and run-ahead."""
