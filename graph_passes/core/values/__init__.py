"""What is known about a value: its ancestors, its constant value, where its elements and samples lie."""
