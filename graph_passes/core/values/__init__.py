"""What is known of a value: its ancestors, its constant value, where its elements and samples lie."""
