"""Training graphs of ours: what they say of themselves, and how they become what a session runs."""
